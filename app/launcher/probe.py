"""Ask each listener of server.toml for a response; exit status 0 if all respond."""

import errno
import os
import socket
import sys
from collections.abc import Callable

from app.launcher import health
from app.launcher.child import MISCONFIGURED
from app.launcher.console import Parser
from app.launcher.log import warn
from app.settings import config
from app.settings.errors import ConfigurationError

ANOTHER_LOOPBACK = "127.0.0.2"


def responds(host: str, listener: config.Listener, timeout: float = 1.0) -> bool:
    """Return whether a listener sends a response; each step may take `timeout` seconds."""
    try:
        return ask(host, listener, timeout=timeout)
    except OSError:  # refused, reset, timed out, or no TLS: no response
        return False


def ask(
    host: str,
    listener: config.Listener,
    *,
    leaf: bytes | None = None,
    timeout: float = 1.0,
    before_connect: Callable[[socket.socket], None] | None = None,
) -> bool:
    """Return whether a listener sends a response, as `health.ask` does.

    `before_connect` gets the client's socket, bound to the address that it connects from. Raises OSError.
    """
    address = config.reachable(host)

    def bind(client: socket.socket) -> None:
        if before_connect is not None:
            _bind(client, address)
            before_connect(client)

    return health.ask(how_to_ask(listener), (address, listener.port), leaf=leaf, timeout=timeout, before_connect=bind)


def how_to_ask(listener: config.Listener) -> str:
    """Return which of the ways of `health` asks a listener."""
    if listener.tls is not None:
        return health.HTTPS_FOR_CERTIFIED if config.needs_client_certificate(listener) else health.HTTPS
    return health.H2C if listener.protocol == "h2c" else health.HTTP


def _bind(client: socket.socket, address: str) -> None:
    """Bind to a port that is wholly free: connect(2) would do with one that is used to other ports, as in TIME_WAIT.

    If a machine's own clients have used all of an address, another of loopback will do. Raises OSError.
    """
    try:
        client.bind((address, 0))
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not address.startswith("127."):
            raise
        client.bind((ANOTHER_LOOPBACK, 0))


def main() -> int:
    """Ask every listener; the exit status is 0 if all respond, 1 if one does not, 2 for an invalid setting."""
    parser = Parser(prog="python -m app.launcher.probe", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="server.toml (CONFIG)")
    arguments = parser.parse_args()
    try:
        configuration = config.read(
            config.path_of(arguments.config, os.environ), os.environ | {config.SELF_SIGNED_VARIABLE: "1"}
        )
    except ConfigurationError as error:
        warn(f"configuration: {error}")
        return MISCONFIGURED
    silent = [each.name for each in configuration.listeners if not responds(configuration.server.host, each)]
    for name in silent:
        warn(f"listener {name} does not respond")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())

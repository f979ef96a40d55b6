"""Whether a listener responds: asked before it counts as serving, by hand, and by the container's health check."""

import argparse
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterable

from app.launcher import health
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

    return health.ask(_how(listener), (address, listener.port), leaf=leaf, timeout=timeout, before_connect=bind)


def _how(listener: config.Listener) -> str:
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


class Listing:
    """The listeners that are to respond, for the container's health check: a file in memory, found by its name in /proc.

    Nobody else knows them all: variables, --config and a reload have their say, and there may be no place for a file.
    """

    def __init__(self) -> None:
        """List nothing yet."""
        self._text = b""
        try:
            self._descriptor: int | None = os.memfd_create(health.LISTING)
        except OSError as error:
            self._descriptor = None
            warn(f"the container's health check will fail: it cannot be given a list of the listeners ({error})")

    def write(self, listeners: Iterable[tuple[str, config.Listener]]) -> None:
        """List these hosts and listeners instead."""
        text = b"".join(
            b"%b %b %d %b\n"
            % (_how(each).encode(), config.reachable(host).encode(), each.port, each.name.encode("unicode_escape"))
            for host, each in listeners
        )
        if text != self._text and self._descriptor is not None:
            try:
                os.pwrite(self._descriptor, text, 0)
                os.truncate(self._descriptor, len(text))
            except OSError as error:  # no memory, or a limit on the size of files (ulimit -f)
                warn(f"the container's health check will fail: the list of the listeners cannot be written ({error})")
            self._text = text

    def close(self) -> None:
        """List nothing any more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def main() -> int:
    """Ask every listener; the exit status is 0 if all respond, 1 if one does not, 2 for an invalid setting."""
    parser = argparse.ArgumentParser(prog="python -m app.launcher.probe", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="server.toml (CONFIG)")
    arguments = parser.parse_args()
    try:
        configuration = config.read(
            config.path_of(arguments.config, os.environ), os.environ | {config.SELF_SIGNED_VARIABLE: "1"}
        )
    except ConfigurationError as error:
        warn(f"configuration: {error}")
        return 2
    silent = [each.name for each in configuration.listeners if not responds(configuration.server.host, each)]
    for name in silent:
        warn(f"listener {name} does not respond")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())

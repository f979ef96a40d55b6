"""Whether an address can be listened on so that this machine reaches it."""

import socket
from contextlib import ExitStack

from app.settings.config import reachable
from app.settings.errors import ConfigurationError

REACHED = 2.0  # seconds for a connection from this machine to itself


def check(setting: str, host: str) -> None:
    """Raise ConfigurationError, which names `setting`, for an address that takes no connections: a broadcast address, for one.

    The kernel lets a server listen on a broadcast address, and refuses what would talk to it (socket(7), SO_BROADCAST).
    It lets one listen on :: without ::1, too, and then nobody here could ask whether the workers respond.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if host == "255.255.255.255" or _is_broadcast(family, host):
        raise ConfigurationError(
            f"{setting}={host} is a broadcast address; use 127.0.0.1 for this machine alone, 0.0.0.0 or :: for all"
        )
    address = reachable(host)
    remedy = "bring up lo" if family == socket.AF_INET else "use 0.0.0.0, or bring up lo"
    with ExitStack() as stack:
        try:
            server = stack.enter_context(socket.socket(family))
            server.bind((address, 0))
        except OSError as error:
            if address == host:  # no address of this machine: reported when its port is bound
                return
            raise _unreachable(setting, host, address, error, remedy) from error
        try:
            server.listen()
            stack.enter_context(socket.create_connection((address, server.getsockname()[1]), REACHED))
        except OSError as error:
            raise _unreachable(setting, host, address, error, remedy) from error


def _is_broadcast(family: socket.AddressFamily, host: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.connect((host, 9))  # sends nothing
    except PermissionError:
        return True
    except OSError:  # another network's, without a route, or a family that is switched off: seen when it is bound
        return False
    return False


def _unreachable(setting: str, host: str, address: str, error: OSError, remedy: str) -> ConfigurationError:
    reason = error.strerror or error
    return ConfigurationError(f"{setting}={host}: this machine cannot reach it at {address} ({reason}); {remedy}")

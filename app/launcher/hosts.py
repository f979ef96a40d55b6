"""Whether an address can be listened on so that this machine reaches it."""

import fcntl
import socket
import sys

from app.settings.config import reachable
from app.settings.errors import ConfigurationError

SIOCGIFFLAGS, IFF_UP = 0x8913, 0x1  # linux/sockios.h, linux/if.h


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
    if not _has_loopback():
        raise _unreachable(setting, host, address, "lo is down", "bring up lo")
    if address == host:
        return
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.bind((address, 0))
            trial.connect((address, 9))
    except OSError as error:
        raise _unreachable(setting, host, address, error.strerror or repr(error), remedy) from error


def _has_loopback() -> bool:
    """Return whether the interface is up by which this machine reaches each of its addresses (netdevice(7))."""
    request = b"lo".ljust(40, b"\0")  # struct ifreq
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)
    except OSError:  # a system that has none of that name, or no IPv4
        return True
    return bool(int.from_bytes(answer[16:18], sys.byteorder) & IFF_UP)


def _is_broadcast(family: socket.AddressFamily, host: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.connect((host, 9))  # sends nothing
    except PermissionError:
        return True
    except OSError:  # another network's, without a route, or a family that is switched off: seen when it is bound
        return False
    return False


def _unreachable(setting: str, host: str, address: str, reason: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{setting}={host}: this machine cannot reach it at {address} ({reason}); {remedy}")

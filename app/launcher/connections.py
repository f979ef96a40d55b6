"""The connections of the calling process, as /proc has them: nothing of Granian's says which clients are there."""

import errno
import fcntl
import ipaddress
import os
import socket
import sys
import termios
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

INTERVAL = 5.0  # seconds between looks at all
SLICE, PAUSE = 100, 0.01  # connections that are looked at without letting requests go first, and the seconds for these
ACKNOWLEDGED = slice(120, 128)  # of struct tcp_info (linux/tcp.h): tcpi_bytes_acked

Peer = tuple[bytes, int]
Socket = socket.socket  # an application may put another class into its place (PySocks)


def connections_to(port: int) -> Iterator[tuple[Peer, socket.socket]]:
    """Return the connections to `port` whose client has not reset them; each socket is closed after its turn.

    For a thread of its own: it lets requests go first. Raises OSError if no descriptor is free: whoever was not seen may
    be there.
    """
    for index, name in enumerate(os.listdir("/proc/self/fd")):  # noqa: PTH208 - thousands, and no use for a Path
        if index % SLICE == SLICE - 1:
            time.sleep(PAUSE)
        connection = copy_of(int(name), port)
        if connection is None:
            continue
        with connection:
            peer = None
            with suppress(OSError):  # its client has gone
                host, its_port, *_ = connection.getpeername()
                peer = packed(host, its_port)
            if peer is not None:
                yield peer, connection


def acknowledged(port: int) -> Counter[Peer]:
    """Return how many bytes each client of `port` has taken since it has connected. As `connections_to`, it takes time."""
    taken: Counter[Peer] = Counter()
    for peer, connection in connections_to(port):
        with suppress(OSError):  # its client has gone
            taken[peer] += taken_from(connection)
    return taken


def taken_from(connection: socket.socket) -> int:
    """Return how many bytes the client of a connection has acknowledged."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACKNOWLEDGED.stop)
    return int.from_bytes(info[ACKNOWLEDGED], sys.byteorder)


def unacknowledged(connection: socket.socket) -> int:
    """Return how many bytes of a connection its client has not acknowledged yet (tcp(7), SIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)


def copy_of(number: int, port: int) -> socket.socket | None:
    """Return a copy of a descriptor if it is a connection to `port`, whoever closes it meanwhile.

    Raises OSError if no descriptor is free.
    """
    try:
        copy = os.dup(number)
    except OSError as error:
        if error.errno == errno.EBADF:  # it has gone
            return None
        raise
    # Whoever waits in one is not Granian, and a default time-out of the application's (setdefaulttimeout) would change that.
    if os.get_blocking(copy):
        os.close(copy)
        return None
    try:
        connection = Socket(fileno=copy)
    except OSError:  # it is no socket
        os.close(copy)
        return None
    with suppress(OSError):  # it listens, or its client has gone
        if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getsockname()[1] == port:
            connection.getpeername()
            connection.setblocking(False)  # noqa: FBT003 - socket's signature; an application's default time-out is over
            return connection
    connection.close()
    return None


def packed(host: str, port: str | int) -> Peer:
    """Return an address in one form: Granian and the C library may write it differently."""
    return ipaddress.ip_address(host.partition("%")[0]).packed, int(port)

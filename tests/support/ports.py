"""Free ports, for tests that run at the same time in several processes.

A port from `bind(("127.0.0.1", 0))` is free only until it is closed: before the service binds it, a client of another
test may get it as its own, or another process the same one. So ports come from outside the ephemeral range, which the
kernel gives to clients, and each test process takes blocks that no other test process has.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

BLOCK = 50
CANDIDATES = range(20_000, 65_000, BLOCK)


def is_free(port: int) -> bool:
    """Whether the port can be bound without sharing it."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # the listener was closed in this moment
        return False
    return False


def _blocks() -> Iterator[range]:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    for first in CANDIDATES:
        block = range(first, first + BLOCK)
        if block[-1] < low or block[0] > high:
            yield block


def _claimed_ports() -> Iterator[int]:
    """Yield ports of blocks that this process claims, by a Unix socket whose name ends with it (unix(7), abstract)."""
    claims = []
    for block in _blocks():
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0granian-json-tests-{block[0]}")
        except OSError:  # another test process has it
            claim.close()
            continue
        claims.append(claim)
        yield from block
    raise RuntimeError("no port left outside the ephemeral range (net.ipv4.ip_local_port_range)")


_PORTS = _claimed_ports()


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on and no other test is given: each is returned once in a process' life."""
    found: list[int] = []
    while len(found) < number:
        port = next(_PORTS)
        if is_free(port):
            found.append(port)
    return found


def free_port() -> int:
    return free_ports(1)[0]


def free_row(number: int) -> int:
    """Return the first of that many free ports in a row."""
    row = free_ports(1)
    while len(row) < number:
        (port,) = free_ports(1)
        row = [*row, port] if port == row[-1] + 1 else [port]
    return row[0]

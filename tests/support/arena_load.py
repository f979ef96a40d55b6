"""Many connections at once that speak to the arena's endpoints, every body compared."""

import asyncio
import re
import resource
import socket
import ssl
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import uvloop

from tests.support.arena import Exchange, a_delay
from tests.support.http1 import read_bodies

OPENING_AT_ONCE = 64
DEADLINE = 60.0  # seconds for a response while all the others are asked for, too
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
GZIP = b"\r\ncontent-encoding: gzip\r\n"
GZIP_WINDOW = 31  # zlib's number for the gzip format


@dataclass(frozen=True)
class Group:
    """Connections that are kept open together, and what is sent on each, one request after the other."""

    port: int
    context: ssl.SSLContext | None
    connections: int
    make: Callable[[], Exchange]
    requests: int

    async def load(self) -> int:
        """Return how many responses were right."""
        opening = asyncio.Semaphore(OPENING_AT_ONCE)
        all_open = asyncio.Barrier(self.connections)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.one(opening, all_open)) for _ in range(self.connections)]
        return sum(task.result() for task in tasks)

    async def one(self, opening: asyncio.Semaphore, all_open: asyncio.Barrier) -> int:
        async with opening:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.context, server_hostname="localhost" if self.context else None
            )
        await all_open.wait()
        for _ in range(self.requests):
            exchange = self.make()
            writer.write(exchange.request)
            async with asyncio.timeout(DEADLINE):
                head = await reader.readuntil(b"\r\n\r\n")
                length = LENGTH.search(head)
                assert head.startswith(b"HTTP/1.1 200 "), head
                assert length is not None
                body = await reader.readexactly(int(length[1]))
            assert (zlib.decompress(body, GZIP_WINDOW) if GZIP in head else body) == exchange.body
        writer.close()
        await writer.wait_closed()
        return self.requests


def load(*groups: Group) -> int:
    """Load with all groups at once; return how many responses were right.

    Anything else than the right body, or a connection that is lost, raises.
    """

    async def all_of_them() -> int:
        return sum(await asyncio.gather(*(group.load() for group in groups)))

    return uvloop.run(all_of_them())


def wait_on_all(port: int, source: str, connections: int, milliseconds: int) -> int:
    """Request a delay on so many connections from one address, then read all; return how many responses were right.

    Run it in a process of its own: it opens as many files.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    exchange = a_delay(milliseconds)
    waiting = [
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE, source_address=(source, 0))
        for _ in range(connections)
    ]
    for each in waiting:
        each.sendall(exchange.request)
    right = 0
    for each in waiting:
        with each:
            right += read_bodies(each, 1) == [exchange.body]
    return right

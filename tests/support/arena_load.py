"""Many connections at once that speak to the arena's endpoints, every body compared."""

import asyncio
import re
import ssl
from collections.abc import Callable

import uvloop

from tests.support.arena import Exchange

OPENING_AT_ONCE = 64
DEADLINE = 60.0  # seconds for a response while all the others are asked for, too
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")


def load(
    port: int, context: ssl.SSLContext | None, connections: int, make: Callable[[], Exchange], requests: int
) -> int:
    """Keep connections open, and send so many requests on each, one after the other; return how many were right.

    Anything else than the right body, or a connection that is lost, raises.
    """
    return uvloop.run(_load(port, context, connections, make, requests))


async def _load(
    port: int, context: ssl.SSLContext | None, connections: int, make: Callable[[], Exchange], requests: int
) -> int:
    opening = asyncio.Semaphore(OPENING_AT_ONCE)
    all_open = asyncio.Barrier(connections)

    async def one() -> int:
        async with opening:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="localhost" if context else None
            )
        await all_open.wait()
        for _ in range(requests):
            exchange = make()
            writer.write(exchange.request)
            async with asyncio.timeout(DEADLINE):
                head = await reader.readuntil(b"\r\n\r\n")
                length = LENGTH.search(head)
                assert head.startswith(b"HTTP/1.1 200 "), head
                assert length is not None
                assert await reader.readexactly(int(length[1])) == exchange.body
        writer.close()
        await writer.wait_closed()
        return requests

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(connections)]
    return sum(task.result() for task in tasks)

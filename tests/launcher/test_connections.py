"""Many connections and many threads at once."""

import asyncio
import re
import socket
import ssl
import threading
from pathlib import Path

import httpx
import pytest

from app.launcher import filters
from bench import oracle
from tests.support.configuration import SERVER_TOML, configured
from tests.support.http1 import REQUEST
from tests.support.processes import open_connections, wait_until
from tests.support.service import Launch, Service

CONNECTIONS = 512  # `make soak` opens 4,096 and more

pytestmark = pytest.mark.xdist_group("load")  # one at a time: each loads the machine


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("workers", ["1", "3"])
def test_all_of_many_open_connections_are_served(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext, workers: str
) -> None:
    service = launch(WORKERS=workers, **pair).ready()

    async def send_twice(
        port: int, context: ssl.SSLContext | None, gate: asyncio.Barrier, opening: asyncio.Semaphore
    ) -> bool:
        async with opening:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="localhost" if context else None
            )
        bodies = []
        for _ in range(2):
            await gate.wait()  # each round begins when all connections are open
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None
            bodies.append(await reader.readexactly(int(length[1])))
        await gate.wait()
        writer.transport.abort()
        return bodies == [oracle.body(1, 2)] * 2

    async def send_on_all(port: int, context: ssl.SSLContext | None) -> list[bool]:
        gate, opening = asyncio.Barrier(CONNECTIONS), asyncio.Semaphore(256)
        return await asyncio.gather(*(send_twice(port, context, gate, opening) for _ in range(CONNECTIONS)))

    for port, context in ((service.port, None), (service.tls_port, trust)):
        served = asyncio.run(asyncio.wait_for(send_on_all(port, context), 60))
        assert served == [True] * CONNECTIONS
    service.stop()


def test_a_client_that_vanishes_is_noticed(launch: Launch, tmp_path: Path) -> None:
    """No packet comes from it, no FIN and no RST either; without a word of its own it would stay for ever."""
    text = SERVER_TOML.replace("unread_timeout = 30", "unread_timeout = 1")
    service = launch(configured(tmp_path, text.replace("header_read_timeout = 30", "header_read_timeout = 60"))).ready()
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        wait_until(lambda: open_connections(service.port) == 1, "the connection")
        filters.let_in(client, 0)  # it gets nothing, and acknowledges nothing
        wait_until(lambda: open_connections(service.port) == 0, "its end")
    service.stop()


def test_many_threads_get_the_right_responses(service: Service, trust: ssl.SSLContext) -> None:
    wrong: list[tuple[int, int]] = []

    def send_on_one_connection(seed: int) -> None:
        url = service.url if seed % 2 else service.tls_url
        with httpx.Client(base_url=url, verify=trust, trust_env=False) as client:
            for step in range(100):
                count, multiplier = (seed * 7 + step) % 51, seed * 100 + step
                if client.get(f"/json/{count}?m={multiplier}").content != oracle.body(count, multiplier):
                    wrong.append((count, multiplier))

    threads = [threading.Thread(target=send_on_one_connection, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

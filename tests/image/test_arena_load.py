"""The arena's image under as many connections as the arena opens: every body compared, nothing lost."""

import multiprocessing
import random
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.support import arena
from tests.support.arena_load import Group, load, wait_on_all
from tests.support.container import ARENA, Container, Run
from tests.support.http2 import Client

pytestmark = pytest.mark.container
CONNECTIONS = 4096
WAITING, CLIENTS = 32_000, 8  # connections of the profile `async`, and the processes that open them
DELAY = 10_000  # milliseconds: the longest
Loads = dict[str, Callable[[], int]]


def a_large_echo() -> arena.Exchange:
    body = random.randbytes(random.randint(10_000, 100_000))
    return arena.Exchange(arena.with_length("POST", "/echo", body), body)


def a_compressed_page() -> arena.Exchange:
    page = arena.a_page()
    return page._replace(request=page.request.replace(b"\r\n\r\n", b"\r\naccept-encoding: gzip, br\r\n\r\n"))


def over_http2(container: Container, make: Callable[[], arena.Exchange]) -> int:
    """Send requests on three streams of all connections at once; return how many responses were right."""
    clients = [Client(container.h2c_port) for _ in range(CONNECTIONS)]
    expected = []
    for client in clients:
        exchanges = [make() for _ in range(3)]
        expected.append({client.request(each.request.split(b" ")[1].decode()): each.body for each in exchanges})
    for client, bodies in zip(clients, expected, strict=True):
        client.until_whole(bodies)
        assert client.bodies == bodies
        client.close()
    return 3 * CONNECTIONS


def a_sum_without_body() -> arena.Exchange:
    a, b = arena.number(), arena.number()
    return arena.of_target(f"/baseline2?a={a}&b={b}", b"%d" % (a + b))


def profiles(container: Container, trust: ssl.SSLContext) -> Loads:
    """Return the load of each profile: plaintext, TLS, or HTTP/2."""

    def plaintext(make: Callable[[], arena.Exchange], requests: int = 3) -> Callable[[], int]:
        return lambda: load(Group(container.port, None, CONNECTIONS, make, requests))

    def tls(make: Callable[[], arena.Exchange]) -> Callable[[], int]:
        return lambda: load(Group(container.tls_port, trust, CONNECTIONS, make, 3))

    return {
        "baseline": plaintext(arena.a_sum),
        "limited-conn": plaintext(arena.a_sum, 10),
        "async": plaintext(lambda: arena.a_delay(10)),
        "latency-10k": plaintext(lambda: arena.of_target("/baseline11?a=1&b=2", b"3")),
        "json-tls": tls(arena.a_page),
        "8gbit": tls(a_large_echo),
        "baseline-h2c": lambda: over_http2(container, a_sum_without_body),
        "pipelined": plaintext(arena.an_ok),
        "json-comp": plaintext(a_compressed_page),
        "json-h2c": lambda: over_http2(container, arena.a_page),
    }


def mixture(container: Container, trust: ssl.SSLContext) -> int:
    """Load the plaintext and the TLS listener at once."""
    half = CONNECTIONS // 2
    plaintext = [arena.anything, a_compressed_page]
    return load(
        *(Group(container.port, None, half // 2, make, 5) for make in plaintext),
        *(Group(container.tls_port, trust, half // 2, make, 5) for make in (arena.anything, a_large_echo)),
    )


def test_4096_connections_of_every_profile_in_turn_then_in_mixture(
    run_arena: Run, arena_certs: Path, many_files: int
) -> None:
    if many_files < CONNECTIONS + 200:
        pytest.skip(f"the hard limit on open files is {many_files}: no room for {CONNECTIONS} connections")
    container = run_arena(*ARENA, "-v", f"{arena_certs}:/certs:ro").ready()
    trust = ssl.create_default_context(cafile=arena_certs / "server.crt")
    trust.check_hostname = False  # the arena's certificate has no alternative names
    loads = profiles(container, trust) | {"all in mixture": lambda: mixture(container, trust)}
    for name, each in loads.items():
        begin = time.monotonic()
        responses = each()
        print(f"{name}: {responses} responses in {time.monotonic() - begin:.1f} s")
        assert responses >= 3 * CONNECTIONS
    container.stop()
    assert not [line for line in container.logs.splitlines() if " ERROR " in line or " WARNING " in line]


def test_32000_connections_wait_at_once(run_arena: Run) -> None:
    container = run_arena(*ARENA, "-e", "WORKERS=4").ready()
    begin = time.monotonic()
    with ProcessPoolExecutor(CLIENTS, multiprocessing.get_context("spawn")) as clients:
        # From an address of its own each: one has some 28,000 ports.
        right = [
            clients.submit(wait_on_all, container.port, f"127.0.1.{n + 1}", WAITING // CLIENTS, DELAY)
            for n in range(CLIENTS)
        ]
        assert sum(future.result() for future in right) == WAITING
    taken = time.monotonic() - begin
    print(f"{WAITING} delays of {DELAY} ms in {taken:.1f} s")
    assert taken < 6 * DELAY / 1000  # one after the other they would take days
    container.stop()

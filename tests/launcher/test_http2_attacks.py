"""Attacks on HTTP/2: each ends with its connection, and no other client notices."""

from collections.abc import Callable
from contextlib import closing

import httpx
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from bench import oracle
from tests.support.http2 import Client
from tests.support.service import Service

pytestmark = pytest.mark.xdist_group("load")  # one at a time: each loads the machine


def flood_of_resets(client: Client) -> None:
    """Open streams and reset them at once (CVE-2023-44487)."""
    for _ in range(20_000):
        stream = client.stream()
        head = HeadersFrame(stream, client.headers("/json/50?m=2"), flags=["END_HEADERS", "END_STREAM"])
        client.send(head, RstStreamFrame(stream, error_code=8))


def flood_of_invalid_requests(client: Client) -> None:
    """Make the server reset streams, by requests that it must reject (CVE-2025-8671)."""
    for _ in range(20_000):
        client.request("/json/50?m=2")
        client.send(WindowUpdateFrame(client.next - 2, window_increment=2**31 - 1))


def flood_of_continuations(client: Client) -> None:
    """Never end the headers (CVE-2024-27316)."""
    client.send(HeadersFrame(client.stream(), client.headers("/json/1"), flags=["END_STREAM"]))
    for index in range(20_000):
        client.send(ContinuationFrame(1, client.encoder.encode([(f"x-{index}", "y" * 1000)])))


def flood_of_settings(client: Client) -> None:
    for _ in range(20_000):
        client.send(SettingsFrame(settings={SettingsFrame.HEADER_TABLE_SIZE: 2**32 - 1}))


def flood_of_pings(client: Client) -> None:
    for _ in range(20_000):
        client.send(PingFrame(0, b"00000000"))


def flood_of_empty_data(client: Client) -> None:
    stream = client.stream()
    client.send(HeadersFrame(stream, client.headers("/json/1"), flags=["END_HEADERS"]))
    for _ in range(20_000):
        client.send(DataFrame(stream, b""))


def expanding_headers(client: Client) -> None:
    """Put a header of 3 KB into the dynamic table, and name it a thousand times in each request, by a byte each."""
    client.request("/json/1", ("x", "y" * 3000))
    for _ in range(20):
        block = client.headers("/json/1") + b"\xbe" * 1000
        client.send(HeadersFrame(client.stream(), block, flags=["END_HEADERS", "END_STREAM"]))


def oversized_table(client: Client) -> None:
    """Make the decoder's table larger than the server allowed (RFC 7541, section 4.2)."""
    client.send(HeadersFrame(client.stream(), b"\x3f\xff\xff\xff\xff\x07", flags=["END_HEADERS", "END_STREAM"]))


@pytest.mark.parametrize(
    "attack",
    [
        flood_of_resets,
        flood_of_invalid_requests,
        flood_of_continuations,
        flood_of_empty_data,
        expanding_headers,
        oversized_table,
    ],
)
def test_an_attack_ends_with_its_connection(h2c_service: Service, attack: Callable[[Client], None]) -> None:
    with (
        httpx.Client(http1=False, http2=True, trust_env=False) as other,
        closing(Client(h2c_service.h2c_port)) as client,
    ):
        assert other.get(f"{h2c_service.h2c_url}/json/5?m=2").content == oracle.body(5, 2)
        try:
            attack(client)
            while not client.closed:
                client.receive()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was closed while we wrote
        assert other.get(f"{h2c_service.h2c_url}/json/5?m=2").content == oracle.body(5, 2)


@pytest.mark.parametrize("flood", [flood_of_settings, flood_of_pings])
def test_a_cheap_flood_is_followed_by_the_right_response(h2c_service: Service, flood: Callable[[Client], None]) -> None:
    with closing(Client(h2c_service.h2c_port)) as client:
        flood(client)
        stream = client.request("/json/3?m=3")
        client.until_whole([stream])
        assert client.bodies[stream] == oracle.body(3, 3)

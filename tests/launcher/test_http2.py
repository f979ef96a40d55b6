"""The listener json-h2c: HTTP/2 in cleartext by prior knowledge (RFC 9113, section 3.3), and nothing else."""

import asyncio
import random
import shutil
import signal
import socket
import ssl
import subprocess
from contextlib import closing

import httpx
import pytest

from bench import oracle
from tests.support.http2 import Client
from tests.support.ports import free_port
from tests.support.processes import pasted
from tests.support.service import Launch, Service

STREAMS = 32


def test_it_is_announced_and_its_curl_line_works(h2c_service: Service) -> None:
    lines = h2c_service.output.read_text().splitlines()
    assert [line.partition(":")[0] for line in lines[::2]] == ["json-tls", "json-h2c", "json"]
    assert lines[2] == f"json-h2c: {h2c_service.h2c_url} HTTP/2 by prior knowledge, plaintext, no ALPN, 2 workers"
    assert pasted(lines[3], "--write-out '%{http_version}'") == oracle.body(5, 3) + b"2"


def test_its_responses_are_those_of_the_other_listeners(h2c_service: Service, trust: ssl.SSLContext) -> None:
    with (
        httpx.Client(base_url=h2c_service.h2c_url, http1=False, http2=True, trust_env=False) as multiplexed,
        httpx.Client(base_url=h2c_service.url, trust_env=False) as plain,
        httpx.Client(base_url=h2c_service.tls_url, verify=trust, http2=True, trust_env=False) as encrypted,
    ):
        for count, multiplier in (*oracle.MIX, (random.randint(1, 50), random.randint(2, 89))):
            target = f"/json/{count}?m={multiplier}"
            for headers in ({"accept-encoding": "gzip, br"}, {"accept-encoding": ""}):
                ours, *others = [each.get(target, headers=headers) for each in (multiplexed, plain, encrypted)]
                assert [ours.http_version, *(each.http_version for each in others)] == [
                    "HTTP/2",
                    "HTTP/1.1",
                    "HTTP/1.1",  # the offer of h2 is not taken
                ]
                assert ours.content == oracle.body(count, multiplier)
                for other in others:
                    assert other.content == ours.content
                    for name in ("content-type", "content-length", "content-encoding", "vary"):
                        assert other.headers.get(name) == ours.headers.get(name)
        assert multiplexed.head("/json/9").content == b""
        assert multiplexed.get("/nowhere").status_code == 404
        assert multiplexed.post("/json/9", content=b"x" * 100_000).status_code == 405


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /json/1 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
    ],
    ids=["http/1.1", "upgrade", "tls", "no frames"],
)
def test_anything_but_http2_is_closed_without_a_response(h2c_service: Service, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", h2c_service.h2c_port), timeout=10) as client:
        client.sendall(sent)
        received = b""
        try:
            while data := client.recv(4096):
                received += data
        except ConnectionResetError:
            pass  # it was closed before all was read
    assert b"HTTP/1" not in received
    assert b"items" not in received


def test_many_streams_of_a_connection_get_their_responses(h2c_service: Service) -> None:
    with closing(Client(h2c_service.h2c_port)) as client:
        asked: dict[int, tuple[int, int]] = {}
        for _ in range(10):
            for _ in range(STREAMS):
                count, multiplier = random.randint(0, 50), random.randint(-89, 89)
                asked[client.request(f"/json/{count}?m={multiplier}")] = (count, multiplier)
            client.until_whole(asked)
    assert len(asked) == 10 * STREAMS
    for stream, (count, multiplier) in asked.items():
        assert client.bodies[stream] == oracle.body(count, multiplier)
        assert client.statuses[stream] == b"200"


def test_httpx_multiplexes(h2c_service: Service) -> None:
    async def gather() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(http1=False, http2=True, limits=limits, trust_env=False) as client:
            return await asyncio.gather(
                *(client.get(f"{h2c_service.h2c_url}/json/{count}?m=3") for count in range(STREAMS))
            )

    for count, response in enumerate(asyncio.run(gather())):
        assert response.content == oracle.body(count, 3)


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed (Debian: nghttp2-client)")
def test_h2load_gets_its_responses(h2c_service: Service) -> None:
    result = subprocess.run(
        ["h2load", "-n", "6400", "-c", "20", "-m", str(STREAMS), f"{h2c_service.h2c_url}/json/25?m=4"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "status codes: 6400 2xx, 0 3xx, 0 4xx, 0 5xx" in result.stdout


def test_streams_in_flight_are_drained_on_sigterm(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(H2C_PORT=str(free_port()), WORKERS="1", **pair).ready()
    idle = Client(service.h2c_port)
    with closing(idle), closing(Client(service.h2c_port, window=65_535)) as client:
        asked = {client.request(f"/json/50?m={multiplier}"): multiplier for multiplier in range(STREAMS)}
        while sum(map(len, client.bodies.values())) < 65_535:  # all that may come before the window is widened
            client.receive()
        assert len(client.whole) < STREAMS
        service.remember()
        service.signal(signal.SIGTERM)
        late = idle.request("/json/3?m=3")
        while not client.goaway:
            client.receive()
        client.widen(2**24)
        client.until_whole(asked)
        assert {stream: client.bodies[stream] for stream in asked} == {
            stream: oracle.body(50, multiplier) for stream, multiplier in asked.items()
        }
        assert set(client.goaway) == {0}
        while not idle.closed:
            idle.receive()
        assert idle.bodies == {late: oracle.body(3, 3)}
        assert set(idle.goaway) == {0}
    assert service.wait() == 0
    service.gone()
    assert service.errors.read_text() == ""

"""The listener json-h2c: HTTP/2 in cleartext by prior knowledge (RFC 9113, section 3.3), and nothing else."""

import asyncio
import random
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import closing

import hpack
import httpx
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from bench import oracle
from tests.conftest import Launch, Service, clean_environment, free_ports, serving

STREAMS = 32


@pytest.fixture(scope="module")
def h2c(tmp_path_factory: pytest.TempPathFactory, pair: dict[str, str]) -> Iterator[Service]:
    """A running service with all three listeners, which the tests leave as it is."""
    (port,) = free_ports(1)
    with serving(Service(tmp_path_factory.mktemp("h2c"), H2C_PORT=str(port), **pair)) as running:
        before = set(running.descendants)
        yield running
        running.remember()
        assert running.descendants == before, "a worker died"


def port_of(service: Service) -> int:
    return int(service.environment["H2C_PORT"])


def url_of(service: Service) -> str:
    return f"http://127.0.0.1:{port_of(service)}"


class Client:
    """A client that sends frames as it is told to, whether or not a client may."""

    def __init__(self, service: Service, window: int = 2**31 - 1) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port_of(service)), timeout=10)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.received = b""
        self.next = 1
        self.bodies: dict[int, bytes] = {}
        self.statuses: dict[int, bytes] = {}
        self.whole: set[int] = set()
        self.reset: dict[int, int] = {}
        self.goaway: list[int] = []
        self.closed = False
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: window}))
        self.widen(window - 65_535)

    def send(self, *frames: Frame) -> None:
        self.socket.sendall(b"".join(frame.serialize() for frame in frames))

    def widen(self, octets: int) -> None:
        """Allow so many more octets on the connection."""
        if octets > 0:
            self.send(WindowUpdateFrame(0, window_increment=octets))

    def block(self, target: str, *headers: tuple[str, str]) -> bytes:
        pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", target)]
        return bytes(self.encoder.encode([*pseudo, *headers]))

    def stream(self) -> int:
        self.next += 2
        return self.next - 2

    def ask(self, target: str, *headers: tuple[str, str]) -> int:
        stream = self.stream()
        self.send(HeadersFrame(stream, self.block(target, *headers), flags=["END_HEADERS", "END_STREAM"]))
        return stream

    def receive(self) -> None:
        """Take what comes next; `closed` when nothing will."""
        try:
            data = self.socket.recv(2**16)
        except ConnectionResetError:
            data = b""
        self.closed = not data
        self.received += data
        while len(self.received) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self.received[:9]))
            if len(self.received) < 9 + length:
                return
            frame.parse_body(memoryview(self.received[9 : 9 + length]))
            self.received = self.received[9 + length :]
            self.take(frame)

    def take(self, frame: Frame) -> None:
        stream = frame.stream_id
        match frame:
            case HeadersFrame():
                headers = dict(self.decoder.decode(frame.data, raw=True))
                assert b"connection" not in headers  # RFC 9113, section 8.2.2
                self.statuses[stream] = headers[b":status"]
            case DataFrame():
                self.bodies[stream] = self.bodies.get(stream, b"") + frame.data
            case RstStreamFrame():
                self.reset[stream] = frame.error_code
            case GoAwayFrame():
                self.goaway.append(frame.error_code)
            case PingFrame() if "ACK" not in frame.flags:  # a server that drains waits for it
                self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        if "END_STREAM" in frame.flags:
            self.whole.add(stream)

    def until_whole(self, streams: Collection[int]) -> None:
        """Receive until those streams have ended, or the connection has."""
        while not (self.whole >= set(streams) or self.closed):
            self.receive()

    def close(self) -> None:
        self.socket.close()


def test_it_is_announced_and_its_curl_line_works(h2c: Service) -> None:
    lines = h2c.output.read_text().splitlines()
    assert [line.partition(":")[0] for line in lines[::2]] == ["json-tls", "json-h2c", "json"]
    assert lines[2] == f"json-h2c: {url_of(h2c)} HTTP/2 by prior knowledge, plaintext, no ALPN, 2 workers"
    result = subprocess.run(
        ["sh", "-c", f"{lines[3].strip()} --silent --show-error --write-out '%{{http_version}}'"],
        env=clean_environment(),
        capture_output=True,
        check=True,
        timeout=20,
    )
    assert result.stdout == oracle.body(5, 3) + b"2"


def test_its_bodies_are_the_other_listeners(h2c: Service, trust: ssl.SSLContext) -> None:
    with (
        httpx.Client(base_url=url_of(h2c), http1=False, http2=True, trust_env=False) as multiplexed,
        httpx.Client(base_url=h2c.url, trust_env=False) as plain,
        httpx.Client(base_url=h2c.tls_url, verify=trust, http2=True, trust_env=False) as encrypted,
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
def test_what_is_not_http2_is_closed_without_an_answer(h2c: Service, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port_of(h2c)), timeout=10) as client:
        client.sendall(sent)
        received = b""
        try:
            while data := client.recv(4096):
                received += data
        except ConnectionResetError:
            pass  # it was closed before all was read
    assert b"HTTP/1" not in received
    assert b"items" not in received


def test_many_streams_of_a_connection_are_answered(h2c: Service) -> None:
    with closing(Client(h2c)) as client:
        asked: dict[int, tuple[int, int]] = {}
        for _ in range(10):
            for _ in range(STREAMS):
                count, multiplier = random.randint(0, 50), random.randint(-89, 89)
                asked[client.ask(f"/json/{count}?m={multiplier}")] = (count, multiplier)
            client.until_whole(asked)
    assert len(asked) == 10 * STREAMS
    for stream, (count, multiplier) in asked.items():
        assert client.bodies[stream] == oracle.body(count, multiplier)
        assert client.statuses[stream] == b"200"


def test_httpx_multiplexes(h2c: Service) -> None:
    async def gather() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(http1=False, http2=True, limits=limits, trust_env=False) as client:
            return await asyncio.gather(*(client.get(f"{url_of(h2c)}/json/{count}?m=3") for count in range(STREAMS)))

    for count, response in enumerate(asyncio.run(gather())):
        assert response.content == oracle.body(count, 3)


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed (Debian: nghttp2-client)")
def test_h2load_is_answered(h2c: Service) -> None:
    result = subprocess.run(
        ["h2load", "-n", "6400", "-c", "20", "-m", str(STREAMS), f"{url_of(h2c)}/json/25?m=4"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "status codes: 6400 2xx, 0 3xx, 0 4xx, 0 5xx" in result.stdout


def test_streams_in_flight_are_drained_on_sigterm(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(H2C_PORT=str(free_ports(1)[0]), WORKERS="1", **pair).ready()
    idle = Client(service)
    with closing(idle), closing(Client(service, window=65_535)) as client:
        asked = {client.ask(f"/json/50?m={multiplier}"): multiplier for multiplier in range(STREAMS)}
        while sum(map(len, client.bodies.values())) < 65_535:  # all that may come before the window is widened
            client.receive()
        assert len(client.whole) < STREAMS
        service.remember()
        service.signal(signal.SIGTERM)
        late = idle.ask("/json/3?m=3")
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


def flood_of_resets(client: Client) -> None:
    """Open streams and reset them at once (CVE-2023-44487)."""
    for _ in range(20_000):
        stream = client.stream()
        head = HeadersFrame(stream, client.block("/json/50?m=2"), flags=["END_HEADERS", "END_STREAM"])
        client.send(head, RstStreamFrame(stream, error_code=8))


def flood_of_invalid_requests(client: Client) -> None:
    """Have the server reset streams, by requests that it must refuse (CVE-2025-8671)."""
    for _ in range(20_000):
        client.ask("/json/50?m=2")
        client.send(WindowUpdateFrame(client.next - 2, window_increment=2**31 - 1))


def flood_of_continuations(client: Client) -> None:
    """Never end the headers (CVE-2024-27316)."""
    client.send(HeadersFrame(client.stream(), client.block("/json/1"), flags=["END_STREAM"]))
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
    client.send(HeadersFrame(stream, client.block("/json/1"), flags=["END_HEADERS"]))
    for _ in range(20_000):
        client.send(DataFrame(stream, b""))


def expanding_headers(client: Client) -> None:
    """Put a header of 3 KB into the dynamic table, and have it a thousand times in each request, in a byte each."""
    client.ask("/json/1", ("x", "y" * 3000))
    for _ in range(20):
        block = client.block("/json/1") + b"\xbe" * 1000
        client.send(HeadersFrame(client.stream(), block, flags=["END_HEADERS", "END_STREAM"]))


def oversized_table(client: Client) -> None:
    """Have the decoder's table grow beyond what the server allowed (RFC 7541, section 4.2)."""
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
def test_an_attack_ends_with_its_connection(h2c: Service, attack: Callable[[Client], None]) -> None:
    with httpx.Client(http1=False, http2=True, trust_env=False) as other, closing(Client(h2c)) as client:
        assert other.get(f"{url_of(h2c)}/json/5?m=2").content == oracle.body(5, 2)
        try:
            attack(client)
            while not client.closed:
                client.receive()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was closed while we wrote
        assert other.get(f"{url_of(h2c)}/json/5?m=2").content == oracle.body(5, 2)


@pytest.mark.parametrize("flood", [flood_of_settings, flood_of_pings])
def test_a_flood_that_costs_little_is_answered(h2c: Service, flood: Callable[[Client], None]) -> None:
    with closing(Client(h2c)) as client:
        flood(client)
        stream = client.ask("/json/3?m=3")
        client.until_whole([stream])
        assert client.bodies[stream] == oracle.body(3, 3)

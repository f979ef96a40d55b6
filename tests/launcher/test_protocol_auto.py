"""A TLS listener with protocol = "auto": HTTP/2 or HTTP/1.1, as ALPN has it."""

import asyncio
import json
import re
import shutil
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import trustme
from hyperframe.frame import ContinuationFrame, HeadersFrame

from bench import oracle
from tests.support.certificates import handshake, issue, leaf_of, served_leaf
from tests.support.configuration import SERVER_TOML, configured
from tests.support.hostile import CLOSING, request, send
from tests.support.http1 import exchange, read_to_end
from tests.support.http2 import Client
from tests.support.processes import clean_environment, pasted, wait_until
from tests.support.service import Launch, Service, serving

STREAMS = 32
PORT_VARIABLE = 'port_variable = "TLS_PORT"'


def auto(text: str = SERVER_TOML) -> str:
    """Return the text of a server.toml whose TLS listener has that protocol."""
    assert PORT_VARIABLE in text
    return text.replace(PORT_VARIABLE, f'{PORT_VARIABLE}\nprotocol = "auto"')


def with_alpn(context: ssl.SSLContext, *protocols: str) -> ssl.SSLContext:
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


@pytest.fixture(scope="module")
def auto_service(tmp_path_factory: pytest.TempPathFactory, pair: dict[str, str]) -> Iterator[Service]:
    """A running service that these tests share and leave as it is."""
    folder = tmp_path_factory.mktemp("auto")
    with serving(Service(folder, configured(folder, auto()), **pair)) as running:
        yield running


pytestmark = pytest.mark.server


@pytest.fixture
def h2(auto_service: Service, authority_context: ssl.SSLContext) -> Iterator[Client]:
    """A client that works in frames, on a connection of its own."""
    with closing(Client(handshake(auto_service, with_alpn(authority_context, "h2")))) as client:
        yield client


def test_it_is_announced_and_its_curl_line_works(auto_service: Service) -> None:
    described, curl, *_ = auto_service.output.read_text().splitlines()
    assert re.match(
        rf"json-tls: https://127\.0\.0\.1:{auto_service.tls_port} HTTP/2 or HTTP/1\.1 over TLS 1\.3, ALPN h2, http/1\.1,"
        r" 2 workers; certificate for",
        described,
    )
    for option, version in (("", b"2"), ("--http1.1", b"1.1"), ("--no-alpn", b"1.1")):
        assert pasted(curl, f"{option} --write-out '%{{http_version}}'") == oracle.body(5, 3) + version


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "h2"), (["http/1.1", "h2"], "h2"), (["h2"], "h2"), (["http/1.1"], "http/1.1"), ([], None)],
)
def test_alpn_prefers_h2(
    auto_service: Service, authority_context: ssl.SSLContext, offered: list[str], chosen: str | None
) -> None:
    with handshake(auto_service, with_alpn(authority_context, *offered)) as connection:
        assert connection.selected_alpn_protocol() == chosen
        if chosen != "h2":
            exchange(connection)
            exchange(connection)


def test_another_protocol_alone_is_rejected(auto_service: Service, authority_context: ssl.SSLContext) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        handshake(auto_service, with_alpn(authority_context, "http/1.0"))


@pytest.mark.parametrize("http2", [True, False])
def test_httpx_gets_its_responses(auto_service: Service, trust: ssl.SSLContext, *, http2: bool) -> None:
    async def gather() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=1 if http2 else 8)
        client = httpx.AsyncClient(verify=trust, http2=http2, limits=limits, trust_env=False)
        async with client:
            return await asyncio.gather(
                *(client.get(f"{auto_service.tls_url}/json/{count}?m=3") for count in range(STREAMS))
            )

    for count, response in enumerate(asyncio.run(gather())):
        assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert response.content == oracle.body(count, 3)


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed (Debian: nghttp2-client)")
@pytest.mark.parametrize("options", [["-m", str(STREAMS)], ["--h1"]])
def test_h2load_gets_its_responses(auto_service: Service, options: list[str]) -> None:
    url = f"{auto_service.tls_url.replace('localhost', '127.0.0.1')}/json/25?m=4"
    result = subprocess.run(
        ["h2load", "-n", "3200", "-c", "20", *options, url], capture_output=True, text=True, check=True, timeout=60
    )
    assert "status codes: 3200 2xx, 0 3xx, 0 4xx, 0 5xx" in result.stdout
    assert f"Application protocol: {'http/1.1' if '--h1' in options else 'h2'}" in result.stdout


def test_the_limits_of_http2_hold(h2: Client) -> None:
    while not h2.settings:
        h2.receive()
    assert h2.settings["MAX_CONCURRENT_STREAMS"] == 100
    assert h2.settings["MAX_HEADER_LIST_SIZE"] == 2**16
    large = h2.stream()
    block = h2.headers("/json/1", *((f"x-{index}", f"{index}" * 500) for index in range(90)))
    first, *others = [block[at : at + 2**14] for at in range(0, len(block), 2**14)]
    h2.send(HeadersFrame(large, first, flags=["END_STREAM"]))
    for index, part in enumerate(others):
        h2.send(ContinuationFrame(large, part, flags=["END_HEADERS"] if index == len(others) - 1 else []))
    h2.until_whole([large])
    assert h2.statuses[large] == b"431"


@pytest.mark.parametrize(("size", "is_served"), [(1100, True), (3000, False)])
def test_the_limit_of_a_head_holds(
    auto_service: Service, authority_context: ssl.SSLContext, size: int, *, is_served: bool
) -> None:
    """It is 128 KiB; Granian's default would take both."""
    with handshake(auto_service, with_alpn(authority_context, "http/1.1")) as connection:
        head = b"".join(b"x-%d: %b\r\n" % (index, b"y" * size) for index in range(90))
        send(connection, request(b"/json/1") + CLOSING + head + b"\r\n")
        received = read_to_end(connection)
        if is_served:
            assert received.startswith(b"HTTP/1.1 200 ")
        else:  # a reset may overtake the response
            assert received == b"" or received.startswith(b"HTTP/1.1 431 ")


def test_streams_in_flight_are_drained_on_sigterm(
    launch: Launch, pair: dict[str, str], authority_context: ssl.SSLContext, tmp_path: Path
) -> None:
    service = launch(configured(tmp_path, auto()), WORKERS="1", **pair).ready()
    context = with_alpn(authority_context, "h2")
    idle = Client(handshake(service, context))
    with closing(idle), closing(Client(handshake(service, context), window=65_535)) as client:
        asked = {client.request(f"/json/50?m={multiplier}"): multiplier for multiplier in range(STREAMS)}
        while sum(map(len, client.bodies.values())) < 65_535:  # all that may come before the window is widened
            client.receive()
        service.remember()
        service.signal(signal.SIGTERM)
        late = idle.request("/json/3?m=3")  # no close notice: `Client.take` looks for it
        while not client.goaway:
            client.receive()
        client.widen(2**24)
        client.until_whole(asked)
        assert {stream: client.bodies[stream] for stream in asked} == {
            stream: oracle.body(50, multiplier) for stream, multiplier in asked.items()
        }
        while not idle.closed:
            idle.receive()
        assert idle.bodies == {late: oracle.body(3, 3)}
        assert set(idle.goaway) == set(client.goaway) == {0}
    assert service.wait() == 0
    service.gone()
    assert service.errors.read_text() == ""


def test_http1_has_the_close_notice_and_a_silent_connection_is_closed_on_sigterm(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext, tmp_path: Path
) -> None:
    service = launch(configured(tmp_path, auto()), WORKERS="1", **pair).ready()
    with handshake(service, trust) as connection, handshake(service, trust) as silent:
        exchange(connection)
        service.remember()
        service.signal(signal.SIGTERM)
        received = b""
        while b"\r\nconnection: close\r\n" not in received:
            connection.sendall(b"GET /json/1 HTTP/1.1\r\nhost: x\r\n\r\n")
            received = connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert read_to_end(silent) == b""
    assert service.wait() == 0
    service.gone()


def keep_requesting(service: Service, context: ssl.SSLContext, ending: threading.Event, counted: list[int]) -> None:
    """Request eight things at once, on one connection until the server says that it ends, then on another.

    A stream beyond the last that a GOAWAY names was not processed, and may be tried again (RFC 9113, section 6.8).
    """
    connections = 0
    while not ending.is_set():
        connections += 1
        with closing(Client(handshake(service, context))) as client:
            while not (ending.is_set() or client.goaway):
                asked = [client.request(f"/json/{count}?m=2") for count in range(8)]
                client.until_whole(asked)
                for count, stream in enumerate(asked):
                    if stream <= client.last_stream:
                        assert client.bodies[stream] == oracle.body(count, 2), "a response is lost"
                        counted[0] += 1
                    else:
                        counted[1] += 1
                ending.wait(0.02)  # the rest of the machine is for other tests
    counted[2] = connections


@pytest.mark.long
def test_a_renewal_loses_no_request_over_http2(
    launch: Launch, authority: trustme.CA, authority_file: Path, authority_context: ssl.SSLContext, tmp_path: Path
) -> None:
    folder = issue(authority, tmp_path / "certs", "localhost", "127.0.0.1")
    text = SERVER_TOML.replace("certificate_interval = 5", "certificate_interval = 1")
    service = launch(configured(tmp_path, auto(text))).ready()
    context = with_alpn(authority_context, "h2")
    (predecessor, _) = service.server_processes
    ending, counts = threading.Event(), [[0, 0, 0] for _ in range(3)]
    command = ["curl", "--cacert", str(authority_file), "--silent", "--show-error", "--rate", "50/s"]  # for 24 s
    command += ["--output", "/dev/null", "--write-out", "%{http_version} %{http_code} %{num_connects}\n"]
    command += [f"https://127.0.0.1:{service.tls_port}/json/[1-50]?m=2&x=[1-24]"]
    curl = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, text=True)
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(keep_requesting, service, context, ending, each) for each in counts]
        try:
            wait_until(lambda: min(each[0] for each in counts) > 100, "the first responses")
            issue(authority, folder, "localhost", "127.0.0.1")
            wait_until(lambda: predecessor not in service.server_processes, "the predecessor's end", 40)
            before = [each[0] for each in counts]
            wait_until(
                lambda: all(now[0] > then + 100 for now, then in zip(counts, before, strict=True)), "more responses"
            )
        finally:
            ending.set()
    for each in running:
        each.result()
    assert [each[2] for each in counts] == [2, 2, 2]
    assert served_leaf(service, context) == leaf_of(folder)
    lines = curl.communicate(timeout=60)[0].splitlines()
    assert len(lines) == 50 * 24
    assert {line.rpartition(" ")[0] for line in lines} == {"2 200"}
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == 2, "curl goes on with a second connection"
    service.stop()
    assert service.errors.read_text() == ""


def test_an_application_finds_version_and_scheme(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext, tmp_path: Path
) -> None:
    service = launch(configured(tmp_path, auto()), APPLICATION="tests.support.echo_scope:app", **pair).ready()
    found = {}
    for http2 in (True, False):
        with httpx.Client(verify=trust, http2=http2, trust_env=False) as client:
            found[http2] = json.loads(client.get(f"{service.tls_url}/a").content)
    assert [(found[each]["http_version"], found[each]["scheme"]) for each in (True, False)] == [
        ("2", "https"),
        ("1.1", "https"),
    ]
    service.stop()

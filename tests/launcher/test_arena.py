"""The arena's application as arena.toml serves it, over plaintext, TLS and HTTP/2."""

import random
import signal
import socket
import ssl
import time
from collections.abc import Iterator

import httpx
import pytest

from bench import oracle
from tests.support import arena
from tests.support.arena import MIB, Connect
from tests.support.arena_load import Group, load
from tests.support.http1 import read_bodies, read_responses, read_to_end
from tests.support.http2 import Client
from tests.support.ports import free_port
from tests.support.service import Launch, Service, serving

ARENA = "--config=arena.toml"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, pair: dict[str, str]) -> Iterator[Service]:
    """A service of arena.toml, which tests share and leave as it is."""
    with serving(Service(tmp_path_factory.mktemp("arena"), ARENA, H2C_PORT=str(free_port()), **pair)) as running:
        workers = running.all_workers()
        yield running
        assert running.all_workers() == workers


@pytest.fixture(params=["json", "json-tls"])
def connect(request: pytest.FixtureRequest, service: Service, trust: ssl.SSLContext) -> Connect:
    """Open connections to a listener."""

    def opened() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", service.port_of(request.param)), timeout=20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if request.param == "json":
            return connection
        return trust.wrap_socket(connection, server_hostname="localhost")

    return opened


@pytest.fixture(params=["json", "json-tls", "json-h2c"])
def client(request: pytest.FixtureRequest, service: Service, trust: ssl.SSLContext) -> Iterator[httpx.Client]:
    url = {"json": service.url, "json-tls": service.tls_url, "json-h2c": service.h2c_url}[request.param]
    h2c = request.param == "json-h2c"
    with httpx.Client(base_url=url, verify=trust, http1=not h2c, http2=h2c, trust_env=False) as made:
        yield made


def test_sums_of_requests_in_small_writes(connect: Connect) -> None:
    arena.check_sums(connect)
    arena.check_short_connections(connect)


def test_pipelined_requests_get_their_responses_in_order(connect: Connect) -> None:
    arena.check_pipelined(connect, arena.anything)


def test_echoes(connect: Connect) -> None:
    arena.check_echoes(connect)


def test_a_body_that_is_too_large_leaves_the_connection_in_order(connect: Connect) -> None:
    arena.check_too_large(connect)


def test_a_body_that_is_far_too_large_ends_the_connection(connect: Connect) -> None:
    with connect() as connection:
        connection.sendall(arena.request("POST", "/echo", b"content-length: 9000000000000000000\r\n") + b"\r\n")
        (response,) = read_responses(connection, 1)
        assert (response.status, response.headers[b"connection"]) == (413, b"close")
        assert read_to_end(connection) == b""


@pytest.mark.parametrize("chunks", [b"2\r\n20\r\nx\r\n", b"2\r\n200\r\n", b"-1\r\n"])
def test_a_body_that_is_none_is_a_400_and_ends_the_connection(connect: Connect, chunks: bytes) -> None:
    with connect() as connection:
        head = arena.request("POST", "/baseline11?a=1", b"transfer-encoding: chunked\r\n")
        connection.sendall(head + b"\r\n" + chunks)
        (response,) = read_responses(connection, 1)
        assert response.status == 400
        assert read_to_end(connection) == b""


@pytest.mark.parametrize("length_first", [True, False])
def test_of_a_length_and_chunks_the_chunks_count(connect: Connect, *, length_first: bool) -> None:
    headers = [b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n"]
    with connect() as connection:
        head = arena.request("POST", "/echo", *(headers if length_first else reversed(headers)))
        connection.sendall(head + b"\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert read_bodies(connection, 1) == [b"abcde"]
        assert read_to_end(connection) == b""  # RFC 9112, section 6.3: such a connection is not kept


def test_a_client_that_goes_away_disturbs_nobody(connect: Connect) -> None:
    for content in (
        arena.request("POST", "/echo", b"content-length: 1000\r\n") + b"\r\nabc",
        arena.request("POST", "/echo", b"transfer-encoding: chunked\r\n") + b"\r\n3\r\nabc\r\n",
        arena.request("GET", "/delay/50") + b"\r\n",
    ):
        with connect() as connection:
            connection.sendall(content)
    arena.check_short_connections(connect)  # nothing is logged, and no worker ends: the fixture of the service looks


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(connect: Connect) -> None:
    with connect() as connection:
        head = arena.request("POST", "/echo", b"expect: 100-continue\r\ncontent-length: 3\r\n")
        connection.sendall(head + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        assert read_bodies(connection, 1) == [b"abc"]


@pytest.mark.usefixtures("many_files")
def test_delays_are_waited_for_and_overlap(connect: Connect) -> None:
    arena.check_delays(connect, 100)


def test_500_delays_on_5_connections_take_about_one(service: Service) -> None:
    clients = [Client(service.h2c_port) for _ in range(5)]
    begin = time.perf_counter()
    streams = [[client.request("/delay/1000") for _ in range(100)] for client in clients]
    for client, numbers in zip(clients, streams, strict=True):
        client.until_whole(numbers)
        assert {client.bodies[each] for each in numbers} == {b"1000"}
        client.close()
    assert 1 <= time.perf_counter() - begin < 3


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("listener", ["json", "json-tls"])
def test_500_connections_with_requests_of_all_kinds(service: Service, trust: ssl.SSLContext, listener: str) -> None:
    context = trust if listener == "json-tls" else None
    assert load(Group(service.port_of(listener), context, 500, arena.anything, 5)) == 2500


def test_every_listener_has_all_endpoints(client: httpx.Client) -> None:
    for _ in range(20):
        a, b, c = arena.number(), arena.number(), arena.number()
        for path in ("/baseline11", "/baseline2"):
            response = client.get(f"{path}?a={a}&b={b}")
            assert (response.status_code, response.text) == (200, str(a + b))
            assert response.headers["content-type"] == "text/plain"
        assert client.post(f"/baseline11?a={a}&b={b}", content=str(c)).text == str(a + b + c)
    count, multiplier = random.randint(1, 50), random.randint(2, 89)
    target = f"/json/{count}?m={multiplier}"
    assert client.get(target, headers={"accept-encoding": ""}).content == oracle.body(count, multiplier)
    assert client.get("/delay/7").text == "7"
    assert client.get("/pipeline").text == "ok"
    for size in (0, 1, 100_000, MIB):
        body = random.randbytes(size)
        response = client.post("/echo", content=body)
        assert (response.status_code, response.content) == (200, body)
        assert response.headers["content-length"] == str(size)
    assert client.post("/echo", content=bytes(MIB + 1)).status_code == 413
    assert client.get("/pipeline").text == "ok"


def test_head_and_errors(client: httpx.Client) -> None:
    for target in ("/baseline11?a=1&b=20", "/baseline2?a=20", "/delay/10", "/pipeline"):
        response = client.head(target)
        assert (response.status_code, response.headers["content-length"], response.content) == (200, "2", b"")
    for method, target, status, allowed in (
        ("PUT", "/baseline11", 405, "GET, HEAD, POST"),
        ("POST", "/baseline2", 405, "GET, HEAD"),
        ("POST", "/delay/1", 405, "GET, HEAD"),
        ("GET", "/echo", 405, "POST"),
        ("POST", "/pipeline", 405, "GET, HEAD"),
        ("GET", "/", 404, None),
        ("GET", "/baseline11/", 404, None),
        ("GET", "/baseline11?a=", 400, None),
        ("GET", "/delay/10001", 400, None),
        ("GET", "/delay/x", 400, None),
    ):
        response = client.request(method, target)
        assert (response.status_code, response.headers.get("allow")) == (status, allowed), target
        assert response.headers["content-type"] == "text/plain"
        assert response.headers["content-length"] == str(len(response.content))


def test_a_stop_waits_for_delays_and_bodies_under_way(launch: Launch) -> None:
    service = launch(ARENA, H2C_PORT=str(free_port())).ready()
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=10) as delayed,
        socket.create_connection(("127.0.0.1", service.port), timeout=10) as sending,
    ):
        delayed.sendall(arena.request("GET", "/delay/1000") + b"\r\n")
        sending.sendall(arena.request("POST", "/echo", b"content-length: 6\r\n") + b"\r\nabc")
        time.sleep(0.2)  # no condition to wait for: nothing shows that a request has been read
        service.signal(signal.SIGTERM)
        time.sleep(0.5)
        sending.sendall(b"def")
        assert read_bodies(sending, 1) == [b"abcdef"]
        assert read_bodies(delayed, 1) == [b"1000"]
        assert service.wait() == 0

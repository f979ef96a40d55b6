"""Both listeners over real sockets: the same responses, and HTTP/1.1 as any client may speak it."""

import gzip
import random
import socket
import ssl
from collections.abc import Iterator

import httpx
import pytest

from bench import oracle
from tests.support.http1 import WEBSOCKET_UPGRADE, read_bodies
from tests.support.model import LONG
from tests.support.service import Service

Clients = dict[str, httpx.Client]


@pytest.fixture(scope="module")
def clients(service: Service, trust: ssl.SSLContext) -> Iterator[Clients]:
    """A client of each listener, that of TLS verifying against the authority."""
    with (
        httpx.Client(base_url=service.url, trust_env=False) as plain,
        httpx.Client(base_url=service.tls_url, verify=trust, trust_env=False) as encrypted,
    ):
        for each in (plain, encrypted):
            del each.headers["accept-encoding"]  # httpx offers gzip of its own accord
        yield {"json": plain, "json-tls": encrypted}


@pytest.fixture(scope="module", params=["json", "json-tls"])
def client(request: pytest.FixtureRequest, clients: Clients) -> httpx.Client:
    return clients[request.param]


@pytest.mark.parametrize(("count", "multiplier"), oracle.MIX)
def test_the_mix(client: httpx.Client, count: int, multiplier: int) -> None:
    response = client.get(f"/json/{count}", params={"m": multiplier})
    assert response.status_code == 200
    assert response.http_version == "HTTP/1.1"
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(response.content))
    assert "transfer-encoding" not in response.headers
    assert "content-encoding" not in response.headers
    assert response.content == oracle.body(count, multiplier)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/json/0", 200),
        ("GET", "/json/" + "9" * LONG, 200),
        ("GET", "/json/%35?m=%37", 200),
        ("GET", "/json/5?m=-2147483648", 200),
        ("GET", "/json/5?m=2147483648", 400),
        ("GET", "/json/5?m=", 400),
        ("GET", "/json/5?m=%00", 400),
        ("GET", "/", 404),
        ("GET", "/json", 404),
        ("GET", "/json/", 404),
        ("GET", "/json/5/", 404),
        ("GET", "/json/abc", 404),
        ("GET", "/json/-1", 404),
        ("GET", "/json/%D9%A3", 404),
        ("GET", "/json/%FF", 404),
        ("GET", "/baseline11?a=1&b=1", 404),
        ("POST", "/json/5", 405),
        ("OPTIONS", "/json/5", 405),
        ("DELETE", "/json/5?m=x", 405),
    ],
)
def test_every_kind_of_response_is_json_of_its_length(
    client: httpx.Client, method: str, target: str, status: int
) -> None:
    response = client.request(method, target)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers.get("allow") == ("GET, HEAD" if status == 405 else None)
    assert ("error" in response.json()) == (status != 200)


@pytest.mark.parametrize("fields", [["gzip, br"], ["br;q=1.0", "GZIP;q=0.5"], ["identity;q=0, gzip"]])
def test_a_body_is_compressed_on_request(client: httpx.Client, fields: list[str]) -> None:
    headers = [("accept-encoding", field) for field in fields]
    with client.stream("GET", "/json/50?m=6", headers=headers) as response:
        packed = b"".join(response.iter_raw())
    assert response.status_code == 200
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["vary"] == "accept-encoding"
    assert response.headers["content-length"] == str(len(packed))
    assert gzip.decompress(packed) == oracle.body(50, 6)
    head = client.head("/json/50?m=6", headers=headers)
    assert head.content == b""
    for name in ("content-encoding", "content-length", "content-type", "vary"):
        assert head.headers[name] == response.headers[name]


def test_no_acceptable_coding_is_a_406(client: httpx.Client) -> None:
    response = client.get("/json/5", headers={"accept-encoding": "br, identity;q=0"})
    assert response.status_code == 406
    assert "error" in response.json()


def test_head_says_what_get_would_send(client: httpx.Client) -> None:
    get, head = client.get("/json/7?m=2"), client.head("/json/7?m=2")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]
    assert client.head("/json/7?m=x").status_code == 400


def test_both_listeners_send_the_same_bodies(clients: Clients) -> None:
    for _ in range(200):
        count, multiplier = random.randint(0, 60), random.randint(-(2**31), 2**31 - 1)
        plain, encrypted = (each.get(f"/json/{count}?m={multiplier}").content for each in clients.values())
        assert plain == encrypted == oracle.body(count, multiplier), (count, multiplier)


def test_a_websocket_is_rejected(client: httpx.Client) -> None:
    response = client.get("/chat", headers=WEBSOCKET_UPGRADE)
    assert response.status_code == 404
    assert client.get("/json/5", headers=WEBSOCKET_UPGRADE).status_code != 101


@pytest.fixture(params=["json", "json-tls"])
def connection(request: pytest.FixtureRequest, service: Service, trust: ssl.SSLContext) -> Iterator[socket.socket]:
    """A connection that a test writes bytes to, as no client library would."""
    port = service.port_of(request.param)
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if request.param == "json":
        with plain:
            yield plain
    else:
        with trust.wrap_socket(plain, server_hostname="localhost") as encrypted:
            yield encrypted


def test_a_request_may_come_a_byte_at_a_time(connection: socket.socket) -> None:
    for byte in b"GET /json/3?m=2 HTTP/1.1\r\nhost: localhost\r\n\r\n":
        connection.sendall(bytes([byte]))
    assert read_bodies(connection, 1) == [oracle.body(3, 2)]


def test_pipelined_requests_get_responses_in_order(connection: socket.socket) -> None:
    parameters = [(random.randint(0, 50), random.randint(0, 99)) for _ in range(100)]
    connection.sendall(b"".join(b"GET /json/%d?m=%d HTTP/1.1\r\nhost: localhost\r\n\r\n" % each for each in parameters))
    assert read_bodies(connection, len(parameters)) == [oracle.body(*each) for each in parameters]


def test_one_connection_serves_many_requests(connection: socket.socket) -> None:
    for number in range(500):
        connection.sendall(b"GET /json/%d?m=%d HTTP/1.1\r\nhost: localhost\r\n\r\n" % (number % 51, number))
        assert read_bodies(connection, 1) == [oracle.body(number % 51, number)]

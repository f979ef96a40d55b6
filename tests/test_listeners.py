"""Both listeners over real sockets: the same answers, and the transport that each promises."""

import gzip
import hashlib
import random
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bench import oracle
from tests.conftest import Service

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
        ("GET", "/json/" + "9" * 5000, 200),
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
def test_every_kind_of_answer_is_json_of_its_length(
    client: httpx.Client, method: str, target: str, status: int
) -> None:
    response = client.request(method, target)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers.get("allow") == ("GET, HEAD" if status == 405 else None)
    assert ("error" in response.json()) == (status != 200)


@pytest.mark.parametrize("fields", [["gzip, br"], ["br;q=1.0", "GZIP;q=0.5"], ["identity;q=0, gzip"]])
def test_a_body_is_compressed_for_who_asks(client: httpx.Client, fields: list[str]) -> None:
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


def test_nothing_acceptable_is_refused(client: httpx.Client) -> None:
    response = client.get("/json/5", headers={"accept-encoding": "br, identity;q=0"})
    assert response.status_code == 406
    assert "error" in response.json()


def test_head_says_what_get_would_send(client: httpx.Client) -> None:
    get, head = client.get("/json/7?m=2"), client.head("/json/7?m=2")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]
    assert client.head("/json/7?m=x").status_code == 400


def test_the_two_listeners_answer_alike(clients: Clients) -> None:
    for _ in range(200):
        count, multiplier = random.randint(0, 60), random.randint(-(2**31), 2**31 - 1)
        plain, encrypted = (each.get(f"/json/{count}?m={multiplier}").content for each in clients.values())
        assert plain == encrypted == oracle.body(count, multiplier), (count, multiplier)


def test_a_websocket_is_refused(client: httpx.Client) -> None:
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    response = client.get("/chat", headers=upgrade)
    assert response.status_code == 404
    assert client.get("/json/5", headers=upgrade).status_code != 101


@pytest.fixture(params=["json", "json-tls"])
def connection(request: pytest.FixtureRequest, service: Service, trust: ssl.SSLContext) -> Iterator[socket.socket]:
    """A connection of our own, to be written to as no client would."""
    port = service.port if request.param == "json" else service.tls_port
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if request.param == "json":
        with plain:
            yield plain
    else:
        with trust.wrap_socket(plain, server_hostname="localhost") as encrypted:
            yield encrypted


def read_bodies(connection: socket.socket, number: int) -> list[bytes]:
    """Read so many responses, each with its content-length."""
    with closing(connection.makefile("rb")) as stream:
        bodies = []
        for _ in range(number):
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            length = 0
            while (line := stream.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            bodies.append(stream.read(length))
        return bodies


def test_a_request_may_come_a_byte_at_a_time(connection: socket.socket) -> None:
    for byte in b"GET /json/3?m=2 HTTP/1.1\r\nhost: localhost\r\n\r\n":
        connection.sendall(bytes([byte]))
    assert read_bodies(connection, 1) == [oracle.body(3, 2)]


def test_pipelined_requests_are_answered_in_order(connection: socket.socket) -> None:
    pairs = [(random.randint(0, 50), random.randint(0, 99)) for _ in range(100)]
    connection.sendall(b"".join(b"GET /json/%d?m=%d HTTP/1.1\r\nhost: localhost\r\n\r\n" % pair for pair in pairs))
    assert read_bodies(connection, len(pairs)) == [oracle.body(*pair) for pair in pairs]


def test_one_connection_serves_many_requests(connection: socket.socket) -> None:
    for number in range(500):
        connection.sendall(b"GET /json/%d?m=%d HTTP/1.1\r\nhost: localhost\r\n\r\n" % (number % 51, number))
        assert read_bodies(connection, 1) == [oracle.body(number % 51, number)]


def handshake(service: Service, context: ssl.SSLContext, name: str = "localhost") -> ssl.SSLSocket:
    return context.wrap_socket(
        socket.create_connection(("127.0.0.1", service.tls_port), timeout=10),
        server_hostname=name,
        suppress_ragged_eofs=False,
    )


def test_tls_is_1_3_with_an_aead(service: Service, trust: ssl.SSLContext) -> None:
    with handshake(service, trust) as connection:
        assert connection.version() == "TLSv1.3"
        cipher = connection.cipher()
        assert cipher is not None
        assert cipher[0] in ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256")


def test_tls_1_2_is_refused(service: Service, authority_context: ssl.SSLContext) -> None:
    authority_context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        handshake(service, authority_context)


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), ([], None)]
)
def test_alpn_is_http_1_1(
    service: Service, authority_context: ssl.SSLContext, offered: list[str], chosen: str | None
) -> None:
    if offered:
        authority_context.set_alpn_protocols(offered)
    with handshake(service, authority_context) as connection:
        assert connection.selected_alpn_protocol() == chosen


def test_alpn_h2_alone_is_refused(service: Service, authority_context: ssl.SSLContext) -> None:
    authority_context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        handshake(service, authority_context)


def test_the_leaf_on_the_wire_is_the_files(service: Service, trust: ssl.SSLContext, pair_folder: Path) -> None:
    leaf = x509.load_pem_x509_certificates((pair_folder / "server.crt").read_bytes())[0].public_bytes(Encoding.DER)
    with handshake(service, trust) as connection:
        assert connection.getpeercert(binary_form=True) == leaf
    assert hashlib.sha256(leaf).hexdigest() in service.output.read_text()


def test_the_certificate_is_for_its_names_alone(service: Service, trust: ssl.SSLContext) -> None:
    handshake(service, trust, "127.0.0.1").close()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(service, trust, "example.org")


def test_plaintext_on_the_tls_port_gets_no_answer(service: Service) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://127.0.0.1:{service.tls_port}/json/1", trust_env=False)

"""Clients that mean harm, or know no better: each is answered or closed, and nobody else notices.

What the server does not stop by itself is in docs/limits.md.
"""

import http.client
import random
import re
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bench import oracle
from tests.conftest import Launch, Service, is_running, serving, wait_until
from tests.test_configuration import SERVER_TOML, configured

HOST = b"host: localhost\r\n"
GOOD = b"GET /json/3?m=2 HTTP/1.1\r\n" + HOST
CLOSING = b"connection: close\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
HUNG_UP = (ConnectionError, ssl.SSLError)  # with a reset, or without TLS's farewell
DEADLINE = 20.0  # seconds for any client to be rid of: a multiple of the longest time-out, the 10 s for a handshake


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, pair: dict[str, str]) -> Iterator[Service]:
    """A service whose time-outs are a second each."""
    folder = tmp_path_factory.mktemp("impatient")
    text = re.sub(r"^(header_read_timeout|unread_timeout) = 30", r"\1 = 1", SERVER_TOML, flags=re.MULTILINE)
    with serving(Service(folder, configured(folder, text), **pair)) as running:
        yield running


def ask(service: Service, context: ssl.SSLContext | None) -> bytes:
    """Ask as everybody else does, on a connection of its own."""
    client = (
        http.client.HTTPSConnection("localhost", service.tls_port, timeout=DEADLINE, context=context)
        if context
        else http.client.HTTPConnection("127.0.0.1", service.port, timeout=DEADLINE)
    )
    try:
        client.request("GET", "/json/3?m=2")
        return client.getresponse().read()
    finally:
        client.close()


@pytest.fixture(autouse=True)
def nobody_else_notices(service: Service, trust: ssl.SSLContext) -> Iterator[None]:
    """Others are served all the while; afterwards the workers are the same, and there is no line more in the logs."""
    workers = [service.workers(granian) for granian in service.granians]
    logged = service.report()
    ending = threading.Event()
    failures: list[str] = []

    def go_on(context: ssl.SSLContext | None) -> None:
        while not failures:
            ended = ending.is_set()  # before the last question, so that one is asked after all is over
            try:
                if ask(service, context) != oracle.body(3, 2):
                    failures.append("a wrong body")
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
            if ended:
                return
            ending.wait(0.01)

    others = [threading.Thread(target=go_on, args=(context,)) for context in (None, trust)]
    for each in others:
        each.start()
    yield
    ending.set()
    for each in others:
        each.join()
    assert failures == []
    assert [service.workers(granian) for granian in service.granians] == workers
    assert service.report() == logged


Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(service: Service) -> Iterator[Connect]:
    """Open connections to the plaintext port; those that are left are closed with the test."""
    with ExitStack() as stack:

        def opened() -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection

        yield opened


@pytest.fixture
def connect_tls_port(service: Service) -> Iterator[Connect]:
    """Open connections to the TLS port, with no handshake begun."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", service.tls_port), timeout=DEADLINE))


@pytest.fixture(params=["json", "json-tls"])
def connection(
    request: pytest.FixtureRequest, connect: Connect, service: Service, trust: ssl.SSLContext
) -> Iterator[socket.socket]:
    if request.param == "json":
        yield connect()
        return
    plain = socket.create_connection(("localhost", service.tls_port), timeout=DEADLINE)
    with trust.wrap_socket(plain, server_hostname="localhost") as encrypted:
        yield encrypted


def send(connection: socket.socket, content: bytes) -> None:
    """Send as much as the other side takes; it may well hang up."""
    with suppress(*HUNG_UP):
        connection.sendall(content)


def send_on(connection: socket.socket, content: bytes, pause: float = 0.0) -> None:
    """Send the same again and again, `pause` seconds apart, until the other side hangs up."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        connection.sendall(content)
        time.sleep(pause)


def received(connection: socket.socket) -> bytes:
    """Read until the other side closes, which it has to do within the deadline."""
    content = bytearray()
    with suppress(*HUNG_UP):
        while chunk := connection.recv(65536):
            content += chunk
    return bytes(content)


def answers(content: bytes) -> list[tuple[int, bytes]]:
    """Split what was received into statuses and bodies; every byte has to belong to one."""
    found = []
    while content:
        head, _, content = content.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.[01] (\d\d\d) ", head)
        assert status is not None, head
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        size = int(length[1]) if length else 0
        assert len(content) >= size, head
        found.append((int(status[1]), content[:size]))
        content = content[size:]
    return found


def statuses(content: bytes) -> list[int]:
    """Read the statuses, and check the body of every 200."""
    found = answers(content)
    assert all(body == oracle.body(3, 2) for status, body in found if status == 200)
    return [status for status, _ in found]


def request(target: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return method + b" " + target + b" " + version + b"\r\n" + HOST


REFUSED = {
    "NUL in the target": request(b"/json/\x003"),
    "escape in the target": request(b"/json/\x1b[31m3"),
    "NUL in a header": GOOD + b"a: b\0c\r\n",
    "escape in a header": GOOD + b"a: \x1b[31m\r\n",
    "DEL in a header": GOOD + b"a: \x7f\r\n",
    "obsolete folding": GOOD + b"a: b\r\n c\r\n",
    "bare CR in a header": GOOD + b"a: b\rc\r\n",
    "bare CR at line ends": b"GET /json/3 HTTP/1.1\rhost: localhost\r\r",
    "space before the colon": GOOD + b"a : b\r\n",
    "no colon": GOOD + b"a\r\n",
    "no name": GOOD + b": b\r\n",
    "two lengths": GOOD + b"content-length: 3\r\ncontent-length: 4\r\n",
    "a list of lengths": GOOD + b"content-length: 3, 3\r\n",
    "a negative length": GOOD + b"content-length: -1\r\n",
    "a signed length": GOOD + b"content-length: +3\r\n",
    "a hexadecimal length": GOOD + b"content-length: 0x3\r\n",
    "an endless length": GOOD + b"content-length: " + b"9" * 30 + b"\r\n",
    "a length of 2^64 - 1": GOOD + b"content-length: 18446744073709551615\r\n",
    "an unknown coding": GOOD + b"transfer-encoding: gzip\r\n",
    "a coding after chunked": GOOD + b"transfer-encoding: chunked, gzip\r\n",
    "nearly chunked": GOOD + b"transfer-encoding: xchunked\r\n",
    "chunked in HTTP/1.0": request(b"/json/3", version=b"HTTP/1.0") + CHUNKED,
    "no slash": request(b"json/3"),
    "a path of 70 KB": request(b"/" + b"a" * 70_000),
    "a path of 1 MB": request(b"/" + b"a" * 1_000_000),
    "a header of 1 MB": GOOD + b"a: " + b"b" * 1_000_000 + b"\r\n",
    "a header of 300 KB": GOOD + b"a: " + b"b" * 300_000 + b"\r\n",
    "a name of 80 KB": GOOD + b"a" * 80_000 + b": b\r\n",
    "101 headers": GOOD + b"a: b\r\n" * 100,
    "5,000 headers": GOOD + b"".join(b"a%d: b\r\n" % number for number in range(5000)),
    "HTTP/0.9": b"GET /json/3\r\n",
    "HTTP/1.2": request(b"/json/3", version=b"HTTP/1.2"),
    "HTTP/2.0": request(b"/json/3", version=b"HTTP/2.0"),
    "HTTP/9.9": request(b"/json/3", version=b"HTTP/9.9"),
    "HTTP/11.1": request(b"/json/3", version=b"HTTP/11.1"),
    "http/1.1": request(b"/json/3", version=b"http/1.1"),
    "HTTP in a header's place": b"HTTP/1.1 200 OK\r\n",
    "two spaces": request(b" /json/3"),
    "tabs": b"GET\t/json/3\tHTTP/1.1\r\n",
    "a space first": b" " + GOOD,
    "no method": b"/json/3 HTTP/1.1\r\n",
    "a method of no token": request(b"/json/3", b"G(T"),
    "every byte": bytes(range(256)) * 16,
    "NULs": b"\0" * 5000,
    "a ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500,
}


@pytest.mark.parametrize("head", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_request_is_a_4xx_and_the_connections_end(connection: socket.socket, head: bytes) -> None:
    send(connection, head + b"\r\n" + GOOD + b"\r\n")  # nothing that follows may be taken for a request
    found = statuses(received(connection))
    # The reset for a large rest that is not read may overtake the answer.
    assert found in ([400], [414], [431]) or (found == [] and len(head) > 50_000)


# The path or the method decides here, as in any other request; RFC 9112, section 3.2, has these four forms.
TARGETS = {
    "absolute form": (request(b"http://example.org/json/3?m=2"), 200),
    "absolute form of another scheme": (request(b"ftp://user:word@example.org/json/3?m=2"), 200),
    "asterisk form": (request(b"*", b"OPTIONS"), 404),
    "asterisk form with GET": (request(b"*"), 404),
    "authority form": (request(b"example.org:443", b"CONNECT"), 404),
    "authority form with GET": (request(b"example.org:443"), 404),
    "CONNECT of a path": (request(b"/json/3", b"CONNECT"), 405),
    "a method of 50 KB": (request(b"/json/3", b"A" * 50_000), 405),
    "bytes beyond ASCII": (request(b"/json/\xc3\xa5"), 404),
    "broken percent-encoding": (request(b"/json/%zz"), 404),
    "a path of 60 KB": (request(b"/" + b"a" * 60_000), 404),
    "an encoded path of 60 KB": (request(b"/json/" + b"%00" * 20_000), 404),
    "a query of 60 KB": (request(b"/json/3?m=2&" + b"a" * 60_000), 200),
    "60 KB of parameters": (request(b"/json/3?" + b"&=a" * 20_000 + b"&m=2"), 200),
    "an m of 60 KB": (request(b"/json/3?m=" + b"9" * 60_000), 400),
    "99 headers": (GOOD + b"".join(b"a%d: b\r\n" % number for number in range(98)), 200),
    "a header of 100 KB": (GOOD + b"a: " + b"b" * 100_000 + b"\r\n", 200),
    "bytes beyond ASCII in a header": (GOOD + b"a: \xff\xfe\r\n", 200),
    "line feeds alone (RFC 9112, section 2.2)": (GOOD.replace(b"\r", b""), 200),
    "empty lines first (RFC 9112, section 2.2)": (b"\r\n\r\n" + GOOD, 200),
    "a length twice (RFC 9110, section 8.6)": (GOOD + b"content-length: 0\r\ncontent-length: 0\r\n", 200),
    "an unknown expectation (RFC 9110, section 10.1.1)": (GOOD + b"expect: cake\r\n", 200),
    "an upgrade to h2c": (GOOD + b"connection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n", 200),
    "an upgrade to a websocket": (GOOD + b"connection: upgrade\r\nupgrade: websocket\r\n", 200),
    "an upgrade to nothing known": (GOOD + b"connection: upgrade\r\nupgrade: \xff, x/9\r\n", 200),
}


@pytest.mark.parametrize(("head", "status"), TARGETS.values(), ids=TARGETS.keys())
def test_a_strange_request_is_answered_and_the_next_one_too(
    connection: socket.socket, head: bytes, status: int
) -> None:
    send(connection, head + b"\r\n" + GOOD + CLOSING + b"\r\n")
    assert statuses(received(connection)) == [status, 200]


LENIENT = {
    "no host": b"GET /json/3?m=2 HTTP/1.1\r\n",
    "two hosts": GOOD + HOST,
    "an impossible host": b"GET /json/3?m=2 HTTP/1.1\r\nhost: a b/@\r\n",
    "a fragment": request(b"/json/3?m=2#fragment"),
}


@pytest.mark.parametrize("head", LENIENT.values(), ids=LENIENT.keys())
def test_what_granian_should_refuse_and_does_not_is_a_right_answer(connect: Connect, head: bytes) -> None:
    client = connect()
    send(client, head + CLOSING + b"\r\n")
    assert statuses(received(client)) == [200]


# None of these bodies is read: the answer comes, and what follows may only count as a request where the body ended.
BODIES = {
    "chunks": (CHUNKED, b"3\r\nabc\r\n0\r\n\r\n", 2),
    "chunks with extensions and trailers": (CHUNKED, b"3;a=b\r\nabc\r\n0\r\na: b\r\n\r\n", 2),
    "a body": (b"content-length: 3\r\n", b"abc", 2),
    "chunked twice coded": (b"transfer-encoding: gzip, chunked\r\n", b"0\r\n\r\n", 2),
    "a length and chunks": (b"content-length: 5\r\n" + CHUNKED, b"0\r\n\r\n", 1),
    "chunks and a length": (CHUNKED + b"content-length: 5\r\n", b"0\r\n\r\n", 1),
    "a chunk of no size": (CHUNKED, b"\r\nabc\r\n0\r\n\r\n", 1),
    "a chunk of a size that is none": (CHUNKED, b"xyz\r\nabc\r\n0\r\n\r\n", 1),
    "a chunk of a negative size": (CHUNKED, b"-1\r\nabc\r\n0\r\n\r\n", 1),
    "a chunk of too great a size": (CHUNKED, b"f" * 17 + b"\r\nabc\r\n0\r\n\r\n", 1),
    "a chunk of 2^64 - 1 bytes": (CHUNKED, b"f" * 16 + b"\r\nabc\r\n0\r\n\r\n", 1),
    "a chunk without its end": (CHUNKED, b"3\r\nabcde\r\n0\r\n\r\n", 1),
    "chunk lines that end in LF": (CHUNKED, b"3\nabc\n0\n\n", 1),
    "40 KB of a chunk's extension": (CHUNKED, b"3;" + b"a" * 40_000 + b"\r\nabc\r\n0\r\n\r\n", 1),
    "10,000 trailers": (CHUNKED, b"0\r\n" + b"a: b\r\n" * 10_000 + b"\r\n", 1),
    "a body that does not come": (b"content-length: 300\r\n", b"", 1),
    "a body of which a part comes": (b"content-length: 10000000\r\n", b"a" * 100_000, 1),
    "a body to be continued": (b"expect: 100-continue\r\ncontent-length: 300\r\n", b"", 1),
}


@pytest.mark.parametrize(("header", "body", "most"), BODIES.values(), ids=BODIES.keys())
def test_a_body_is_never_taken_for_a_request(connection: socket.socket, header: bytes, body: bytes, most: int) -> None:
    send(connection, GOOD + header + b"\r\n" + body + GOOD + CLOSING + b"\r\n")
    found = statuses(received(connection))
    assert 1 <= len(found) <= most
    assert found == [200] * len(found)


@pytest.mark.parametrize("header", [CHUNKED, b"content-length: 9000000000000000000\r\n"], ids=["chunks", "length"])
def test_an_endless_body_is_not_read_to_its_end(connect: Connect, header: bytes) -> None:
    client = connect()
    client.sendall(GOOD + header + b"\r\n")
    with pytest.raises(HUNG_UP):
        send_on(client, b"1000\r\n" + b"a" * 4096 + b"\r\n")


def test_http_1_0_is_answered_and_closed(connection: socket.socket) -> None:
    send(connection, b"GET /json/3?m=2 HTTP/1.0\r\n\r\n" + GOOD + b"\r\n")
    assert statuses(received(connection)) == [200]


def test_the_http_2_preface_is_closed(connection: socket.socket) -> None:
    send(connection, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
    assert received(connection) == b""


def test_after_a_pipelined_request_that_is_none_nothing_is_read(connection: socket.socket) -> None:
    send(connection, (GOOD + b"\r\n") * 3 + b"NONE\r\n\r\n" + GOOD + b"\r\n")
    assert statuses(received(connection)) == [200, 200, 200, 400]


def test_who_never_speaks_is_closed(connection: socket.socket) -> None:
    assert received(connection) == b""


def test_who_speaks_no_more_is_closed(connection: socket.socket) -> None:
    send(connection, GOOD + b"\r\n")
    assert statuses(received(connection)) == [200]


@pytest.mark.parametrize("piece", [b"\r\n", b"a: b\r\n", b"x"], ids=["empty lines", "headers", "letters"])
def test_a_head_that_comes_in_pieces_for_ever_is_closed(connect: Connect, piece: bytes) -> None:
    client = connect()
    if piece != b"\r\n":
        client.sendall(GOOD)
    with pytest.raises(HUNG_UP):
        send_on(client, piece, pause=0.05)


@pytest.mark.parametrize("head", [b"", b"GET", GOOD], ids=["nothing", "a word", "a head"])
def test_half_closed_without_a_request_is_closed(connect: Connect, head: bytes) -> None:
    client = connect()
    client.sendall(head)
    client.shutdown(socket.SHUT_WR)
    assert received(client) == b""


def test_half_closed_after_requests_is_answered_but_for_the_last(connect: Connect) -> None:
    client = connect()
    client.sendall((GOOD + b"\r\n") * 20)
    client.shutdown(socket.SHUT_WR)
    assert statuses(received(client))[:19] == [200] * 19


@pytest.mark.parametrize("listener", ["json", "json-tls"])
def test_who_asks_and_never_reads_is_disconnected(service: Service, trust: ssl.SSLContext, listener: str) -> None:
    with ExitStack() as stack:
        clients = []
        for _ in range(20):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(DEADLINE)
            client.connect(("127.0.0.1", service.port if listener == "json" else service.tls_port))
            if listener == "json-tls":
                client = stack.enter_context(trust.wrap_socket(client, server_hostname="localhost"))
            clients.append(client)
        for client in clients:
            with pytest.raises(HUNG_UP):  # sooner or later: there are only so many buffers between
                send_on(client, (b"GET /json/50 HTTP/1.1\r\n" + HOST + b"\r\n") * 1000)


@pytest.mark.parametrize("listener", ["json", "json-tls"])
def test_who_goes_away_amid_answers_is_not_missed(
    connect: Connect, connect_tls_port: Connect, trust: ssl.SSLContext, listener: str
) -> None:
    for number in range(300):
        client = connect() if listener == "json" else connect_tls_port()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a farewell
        if listener == "json-tls":
            client = trust.wrap_socket(client, server_hostname="localhost")
        with client:
            client.sendall((b"GET /json/50 HTTP/1.1\r\n" + HOST + b"\r\n") * (number % 50 + 1))
            if number % 3:
                client.recv(number % 1000 + 1)


SLOWHTTPTEST = ["slowhttptest", "-c", "300", "-r", "300", "-i", "1", "-p", "5", "-t", "GET"]
needs_slowhttptest = pytest.mark.skipif(
    shutil.which("slowhttptest") is None, reason="needs slowhttptest: apt-get install slowhttptest"
)


@needs_slowhttptest
@pytest.mark.parametrize("attack", ["-H", "-B", "-R"], ids=["headers", "body", "range"])
def test_slowhttptest_keeps_no_connection_open(service: Service, attack: str) -> None:
    result = subprocess.run(
        [*SLOWHTTPTEST, attack, "-l", "15", "-u", f"{service.url}/json/50"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    report = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)  # it is in colour
    assert "No open connections left" in report, report
    assert set(re.findall(r"service available:\s+(\w+)", report)) == {"YES"}, report


@needs_slowhttptest
def test_slowhttptest_is_disconnected_while_it_reads_slowly(service: Service) -> None:
    def established() -> int:
        """How many connections the service's end has (proc(5), /proc/net/tcp: st)."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(line[1].endswith(f":{service.port:04X}") and line[3] == "01" for line in lines)

    slowly = ["-w", "10", "-y", "20", "-n", "1", "-z", "10", "-k", "3", "-l", "60"]
    command = [*SLOWHTTPTEST, "-X", *slowly, "-u", f"{service.url}/json/50"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as attack:
        try:
            wait_until(lambda: established() > 200, "the attack")
            wait_until(lambda: established() < 50, "its end", DEADLINE)
            assert attack.poll() is None
        finally:
            attack.kill()


def client_hello(context: ssl.SSLContext) -> bytes:
    """Make a ClientHello that the service would accept."""
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def record(kind: int, content: bytes, length: int | None = None) -> bytes:
    """Make a TLS record (RFC 8446, section 5.1), whose length may be a lie."""
    return struct.pack("!BHH", kind, 0x0303, len(content) if length is None else length) + content


HANDSHAKES = {
    "plaintext": GOOD + b"\r\n",
    "random bytes": random.Random(0).randbytes(20_000),
    "NULs": b"\0" * 5000,
    "a record of 64 KB": record(22, b"a" * 65_535),
    "a record a byte too long": record(22, b"a" * (2**14 + 2049)),
    "a hello of 16 MB": record(22, b"\x01\xff\xff\xff" + b"a" * 16_000) * 100,
    "a hello of nothing": record(22, b"\x01\0\0\0"),
    "empty records": record(22, b"") * 10_000,
    "10,000 changes of the cipher": record(20, b"\x01") * 10_000,
    "application data": record(23, b"a" * 100),
    "an alert": record(21, b"\x02\x28"),
    "an unknown record": record(99, b"a" * 100),
    "SSL 2": b"\x80\x2e\x01\x03\x01" + b"a" * 41,
}


@pytest.mark.parametrize("content", HANDSHAKES.values(), ids=HANDSHAKES.keys())
def test_what_is_no_handshake_is_closed(connect_tls_port: Connect, content: bytes) -> None:
    client = connect_tls_port()
    send(client, content)
    answer = received(client)
    assert answer == b"" or (len(answer) == 7 and answer[0] == 21), answer  # nothing, or an alert


def test_garbage_after_a_hello_is_closed(connect_tls_port: Connect, trust: ssl.SSLContext) -> None:
    client = connect_tls_port()
    send(client, client_hello(trust) + random.Random(0).randbytes(1000))
    assert received(client).startswith(b"\x16\x03\x03")


@pytest.mark.parametrize("part", [0.01, 0.5, 1.0])
def test_a_handshake_that_is_half_closed_is_closed(
    connect_tls_port: Connect, trust: ssl.SSLContext, part: float
) -> None:
    client, hello = connect_tls_port(), client_hello(trust)
    client.sendall(hello[: int(len(hello) * part)])
    client.shutdown(socket.SHUT_WR)
    assert received(client)[:1] == (b"\x16" if part == 1 else b"")


OLD_OR_WEAK = {
    "TLS 1.0": ["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
    "TLS 1.1": ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
    "TLS 1.2": ["-tls1_2", "-cipher", "ALL:eNULL:@SECLEVEL=0"],
    "a short tag": ["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256"],
    "a finite field": ["-tls1_3", "-groups", "ffdhe2048"],
}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl: apt-get install openssl")
@pytest.mark.parametrize("offer", OLD_OR_WEAK.values(), ids=OLD_OR_WEAK.keys())
def test_an_old_version_or_a_weak_suite_is_refused(service: Service, offer: list[str]) -> None:
    result = subprocess.run(
        ["openssl", "s_client", "-connect", f"localhost:{service.tls_port}", *offer],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert result.returncode != 0
    assert re.search(r"SSL alert number (40|70)$", result.stderr, re.MULTILINE), result.stderr


@pytest.mark.usefixtures("many_files")
def test_1000_stalled_handshakes_delay_a_good_one_by_less_than_a_second(
    service: Service, connect_tls_port: Connect, trust: ssl.SSLContext
) -> None:
    def best_of_five() -> float:
        def seconds() -> float:
            begin = time.monotonic()
            assert ask(service, trust) == oracle.body(3, 2)
            return time.monotonic() - begin

        return min(seconds() for _ in range(5))

    before = best_of_five()
    hello = client_hello(trust)
    clients = [connect_tls_port() for _ in range(1000)]
    for number, client in enumerate(clients):
        client.sendall(hello[: number % (len(hello) + 1)])  # nothing, some of it, all of it
    assert best_of_five() < before + 1
    assert any(is_open(client) for client in clients)  # they stalled all the while
    for client in clients:
        received(client)


def is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True


def test_a_worker_whose_descriptors_are_held_by_stalled_handshakes_is_replaced(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext
) -> None:
    attacked = launch(WORKERS="1", **pair).ready()
    (worker,) = attacked.workers(attacked.granians[0])
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (80, 80))
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", attacked.tls_port), timeout=DEADLINE))
        wait_until(lambda: not is_running(worker), "the worker's end", 40)
    assert ask(attacked, trust) == ask(attacked, None) == oracle.body(3, 2)
    assert "listener json-tls: a worker had no free descriptor for" in attacked.errors.read_text()
    attacked.stop()


def test_a_flood_of_errors_is_not_logged(connect: Connect, connect_tls_port: Connect) -> None:
    evil = b"\x1b]0;owned\x07\x1b[31m\x9b31m\n2026-01-01 ERROR forged\n"
    heads = [
        *(request(b"/json/" + evil), request(b"/" + evil.hex(" ").replace(" ", "%").encode()), GOOD + b"a: " + evil),
        *(b"%s / HTTP/1.1" % evil, evil, request(b"/json/3?m=%1b%0a%9b"), request(b"/json/%1b%5b31m%0aforged")),
        request(b"/json/3", b"POST") + b"user-agent: ${jndi:x} %s %(a)s {0}\r\nreferer: \xff\x9b\r\n",
    ]
    for number in range(2000):
        client = connect()
        send(client, heads[number % len(heads)] + CLOSING + b"\r\n\r\n")
        statuses(received(client))
        handshake = connect_tls_port()
        send(handshake, random.Random(number).randbytes(200))
        received(handshake)
        client.close()
        handshake.close()

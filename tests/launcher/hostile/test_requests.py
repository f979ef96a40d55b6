"""Requests that are none, or strange: each gets its response or a closed connection."""

import random
import socket

import pytest

from tests.support.hostile import CHUNKED, CLOSING, GOOD, HOST, Connect, request, send, statuses
from tests.support.http1 import read_to_end
from tests.support.model import LONG

INVALID = {
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


@pytest.mark.parametrize("head", INVALID.values(), ids=INVALID.keys())
def test_an_invalid_request_gets_a_4xx_and_ends_the_connection(connection: socket.socket, head: bytes) -> None:
    send(connection, head + b"\r\n" + GOOD + b"\r\n")  # nothing that follows may count as a request
    found = statuses(read_to_end(connection))
    # If much is left unread, the reset may overtake the response.
    assert found in ([400], [414], [431]) or (found == [] and len(head) > 50_000)


# The path and the method decide, as in any request; RFC 9112, section 3.2, has these four forms.
STRANGE = {
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
    "a long path": (request(b"/" + b"a" * LONG), 404),
    "a long encoded path": (request(b"/json/" + b"%00" * (LONG // 3)), 404),
    "a long query": (request(b"/json/3?m=2&" + b"a" * LONG), 200),
    "many parameters": (request(b"/json/3?" + b"&=a" * (LONG // 3) + b"&m=2"), 200),
    "a long m": (request(b"/json/3?m=" + b"9" * LONG), 400),
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


@pytest.mark.parametrize(("head", "status"), STRANGE.values(), ids=STRANGE.keys())
def test_a_strange_request_and_the_next_one_get_responses(connection: socket.socket, head: bytes, status: int) -> None:
    send(connection, head + b"\r\n" + GOOD + CLOSING + b"\r\n")
    assert statuses(read_to_end(connection)) == [status, 200]


LENIENT = {
    "no host": b"GET /json/3?m=2 HTTP/1.1\r\n",
    "two hosts": GOOD + HOST,
    "an impossible host": b"GET /json/3?m=2 HTTP/1.1\r\nhost: a b/@\r\n",
    "a fragment": request(b"/json/3?m=2#fragment"),
}


@pytest.mark.parametrize("head", LENIENT.values(), ids=LENIENT.keys())
def test_what_granian_should_reject_and_accepts_gets_the_right_response(connect: Connect, head: bytes) -> None:
    client = connect()
    send(client, head + CLOSING + b"\r\n")
    assert statuses(read_to_end(client)) == [200]


def test_http_1_0_gets_a_response_and_is_closed(connection: socket.socket) -> None:
    send(connection, b"GET /json/3?m=2 HTTP/1.0\r\n\r\n" + GOOD + b"\r\n")
    assert statuses(read_to_end(connection)) == [200]


def test_the_http_2_preface_is_closed(connection: socket.socket) -> None:
    send(connection, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
    assert read_to_end(connection) == b""


def test_nothing_is_read_after_an_invalid_pipelined_request(connection: socket.socket) -> None:
    send(connection, (GOOD + b"\r\n") * 3 + b"NONE\r\n\r\n" + GOOD + b"\r\n")
    assert statuses(read_to_end(connection)) == [200, 200, 200, 400]


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
        statuses(read_to_end(client))
        handshake = connect_tls_port()
        send(handshake, random.Random(number).randbytes(200))
        read_to_end(handshake)
        client.close()
        handshake.close()

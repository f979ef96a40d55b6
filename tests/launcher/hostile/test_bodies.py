"""Bodies that nobody reads, and bytes that look like a request inside them."""

import socket

import pytest

from tests.support.hostile import CHUNKED, CLOSING, GOOD, Connect, send, send_on, statuses
from tests.support.http1 import HUNG_UP, read_to_end

# None of these bodies is read: the response comes, and what follows may count as a request only after the body's end.
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
    found = statuses(read_to_end(connection))
    assert 1 <= len(found) <= most
    assert found == [200] * len(found)


@pytest.mark.parametrize("header", [CHUNKED, b"content-length: 9000000000000000000\r\n"], ids=["chunks", "length"])
def test_an_endless_body_is_not_read_to_its_end(connect: Connect, header: bytes) -> None:
    client = connect()
    client.sendall(GOOD + header + b"\r\n")
    with pytest.raises(HUNG_UP):
        send_on(client, b"1000\r\n" + b"a" * 4096 + b"\r\n")

"""HTTP/1.1 over plain sockets: requests as bytes, and responses read to their end and no further."""

import http.client
import re
import socket
import ssl
from contextlib import closing, suppress
from typing import NamedTuple

from bench import oracle
from tests.support.service import Service

REQUEST = b"GET /json/1?m=2 HTTP/1.1\r\nhost: localhost\r\n\r\n"
HUNG_UP = (ConnectionError, ssl.SSLError)  # with a reset, or without TLS's close_notify
WEBSOCKET_UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def read_response(connection: socket.socket) -> bytes:
    """Read one response of status 200 to its end; return its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        assert chunk, f"closed after {received!r}"
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert head.startswith(b"HTTP/1.1 200"), head
    assert length is not None
    while len(body) < int(length[1]):
        chunk = connection.recv(65536)
        assert chunk, f"closed in the middle of a body of {length[1]!r} bytes"
        body += chunk
    return body


def exchange(connection: socket.socket) -> None:
    """Send REQUEST on an open connection; the response has to be right."""
    connection.sendall(REQUEST)
    assert read_response(connection) == oracle.body(1, 2)


def get_on_new_connection(service: Service, context: ssl.SSLContext | None, timeout: float) -> bytes:
    """Return the body of /json/3?m=2, over TLS if there is a context."""
    client = (
        http.client.HTTPSConnection("localhost", service.tls_port, timeout=timeout, context=context)
        if context
        else http.client.HTTPConnection("127.0.0.1", service.port, timeout=timeout)
    )
    with closing(client):
        client.request("GET", "/json/3?m=2")
        return client.getresponse().read()


class Response(NamedTuple):
    """A response with its content-length; names of headers are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


def read_responses(connection: socket.socket, number: int) -> list[Response]:
    """Read so many responses, each with its content-length."""
    with closing(connection.makefile("rb")) as stream:
        found: list[Response] = []
        for _ in range(number):
            line = stream.readline()
            assert line.startswith(b"HTTP/1.1 "), (line, len(found))
            headers: dict[bytes, bytes] = {}
            while (header := stream.readline()) not in {b"\r\n", b""}:
                name, _, value = header.partition(b":")
                headers[name.lower()] = value.strip()
            found.append(Response(int(line[9:12]), headers, stream.read(int(headers[b"content-length"]))))
        return found


def read_bodies(connection: socket.socket, number: int) -> list[bytes]:
    """Read so many responses of status 200, each with its content-length."""
    found = read_responses(connection, number)
    assert {each.status for each in found} == {200}
    return [each.body for each in found]


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the other side closes, which it has to do within the socket's timeout."""
    content = bytearray()
    with suppress(*HUNG_UP):
        while chunk := connection.recv(65536):
            content += chunk
    return bytes(content)


def responses(content: bytes) -> list[tuple[int, bytes]]:
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

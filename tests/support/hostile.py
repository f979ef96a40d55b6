"""Requests as bytes for clients that mean harm, and what comes back."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress

from bench import oracle
from tests.support.http1 import HUNG_UP, responses

Connect = Callable[[], socket.socket]
HOST = b"host: localhost\r\n"
GOOD = b"GET /json/3?m=2 HTTP/1.1\r\n" + HOST
CLOSING = b"connection: close\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
DEADLINE = 20.0  # seconds in which any client is disconnected: twice the longest time-out, the 10 s for a handshake


def request(target: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return method + b" " + target + b" " + version + b"\r\n" + HOST


def send(connection: socket.socket, content: bytes) -> None:
    """Send as much as the other side reads; it may hang up."""
    with suppress(*HUNG_UP):
        connection.sendall(content)


def send_on(connection: socket.socket, content: bytes, pause: float = 0.0) -> None:
    """Send the same again and again, `pause` seconds apart, until the other side hangs up."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        connection.sendall(content)
        time.sleep(pause)


def statuses(content: bytes) -> list[int]:
    """Return the statuses; the body of every 200 has to be right."""
    found = responses(content)
    assert all(body == oracle.body(3, 2) for status, body in found if status == 200)
    return [status for status, _ in found]

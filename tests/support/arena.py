"""The arena's steps over HTTP/1.1: what it sends to validate a profile, and what has to come back."""

import random
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from bench import oracle
from tests.support.http1 import Response, read_bodies, read_responses

Connect = Callable[[], socket.socket]
MIB = 2**20
TEXT = b"text/plain"


class Exchange(NamedTuple):
    """A request as bytes, and the body that its response has to have."""

    request: bytes
    body: bytes


def request(method: str, target: str, *headers: bytes) -> bytes:
    """Return a request's head without the empty line that ends it."""
    return b"".join([f"{method} {target} HTTP/1.1\r\nhost: localhost\r\n".encode(), *headers])


def with_length(method: str, target: str, body: bytes, *headers: bytes) -> bytes:
    return request(method, target, *headers) + b"content-length: %d\r\n\r\n" % len(body) + body


def chunked(method: str, target: str, body: bytes, *headers: bytes) -> bytes:
    """Cut the body anywhere into a few chunks."""
    cuts = sorted(random.randint(0, len(body)) for _ in range(random.randint(0, 4)))
    parts = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return request(method, target, *headers) + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def of_target(target: str, body: bytes) -> Exchange:
    return Exchange(request("GET", target) + b"\r\n", body)


def number() -> int:
    return random.randint(-(10 ** random.randint(1, 9)), 10 ** random.randint(1, 9))


def a_sum() -> Exchange:
    """Make one of the three requests of `baseline`, of random numbers."""
    a, b, c = number(), number(), number()
    target = f"/baseline11?a={a}&b={b}"
    form = random.randrange(3)
    if form == 0:
        return of_target(target, b"%d" % (a + b))
    return Exchange((with_length, chunked)[form - 1]("POST", target, b"%d" % c), b"%d" % (a + b + c))


def an_echo() -> Exchange:
    body = random.randbytes(random.randint(0, 5000))
    return Exchange(random.choice([with_length, chunked])("POST", "/echo", body), body)


def a_delay(milliseconds: int | None = None) -> Exchange:
    """Make a request for a delay, a short one unless it is given."""
    waited = random.randint(0, 20) if milliseconds is None else milliseconds
    return of_target(f"/delay/{waited}", b"%d" % waited)


def an_ok() -> Exchange:
    return of_target("/pipeline", b"ok")


def a_page() -> Exchange:
    """Make a request for JSON of the bundled dataset."""
    count, multiplier = random.randint(1, 50), random.randint(2, 89)
    return of_target(f"/json/{count}?m={multiplier}", oracle.body(count, multiplier))


def anything() -> Exchange:
    """Make a request for any of the endpoints."""
    return random.choice([a_sum, a_sum, a_delay, a_page, an_echo, an_ok])()


def send_in_pieces(connection: socket.socket, content: bytes, pieces: int) -> None:
    """Send it in so many writes, cut anywhere; some of them a little apart, so that they are read apart."""
    cuts = sorted(random.randint(0, len(content)) for _ in range(pieces - 1))
    for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        connection.sendall(content[begin:end])
        if random.random() < 0.2:
            time.sleep(0.001)


def respond_to(connection: socket.socket, exchange: Exchange) -> Response:
    """Send a request; return its response, which has to be a 200 with the right body."""
    connection.sendall(exchange.request)
    (response,) = read_responses(connection, 1)
    assert (response.status, response.body) == (200, exchange.body)
    return response


def check_sums(connect: Connect) -> None:
    """Validate `baseline`: the known sums, and random ones of requests in small writes."""
    with connect() as connection:
        target = "/baseline11?a=13&b=42"
        for content, total in (
            (request("GET", target) + b"\r\n", b"55"),
            (with_length("POST", target, b"20"), b"75"),
            (chunked("POST", target, b"20"), b"75"),
        ):
            response = respond_to(connection, Exchange(content, total))
            assert response.headers[b"content-type"].startswith(TEXT)
        for _ in range(60):
            exchange = a_sum()
            send_in_pieces(connection, exchange.request, random.randint(1, 12))
            assert read_bodies(connection, 1) == [exchange.body]
    byte_by_byte = a_sum()
    with connect() as connection:
        for each in byte_by_byte.request:
            connection.sendall(bytes([each]))
        assert read_bodies(connection, 1) == [byte_by_byte.body]


def check_short_connections(connect: Connect) -> None:
    """Validate `limited-conn`: connections that the client closes after 10 requests."""
    for _ in range(20):
        with connect() as connection:
            for exchange in (a_sum() for _ in range(10)):
                respond_to(connection, exchange)


def check_pipelined(connect: Connect, make: Callable[[], Exchange]) -> None:
    """Send requests without waiting, in one write and in several; their responses come in order."""
    for pieces in (1, 40):
        exchanges = [make() for _ in range(50)]
        with connect() as connection:
            send_in_pieces(connection, b"".join(each.request for each in exchanges), pieces)
            assert read_bodies(connection, len(exchanges)) == [each.body for each in exchanges]


def seconds(connection: socket.socket, milliseconds: int) -> float:
    """Return how long a delay takes."""
    begin = time.perf_counter()
    assert respond_to(connection, a_delay(milliseconds)).headers[b"content-type"].startswith(TEXT)
    return time.perf_counter() - begin


def check_delays(connect: Connect, connections: int) -> None:
    """Validate `async`: a delay is waited for, the least of a few is near it, and those of many requests overlap."""
    with connect() as connection:
        for milliseconds in (0, 10, 50):
            taken = [seconds(connection, milliseconds) for _ in range(5)]
            assert milliseconds / 1000 <= min(taken) < milliseconds / 1000 + 0.03
    waiting = [connect() for _ in range(connections)]
    begin = time.perf_counter()
    for each in waiting:
        each.sendall(a_delay(1000).request)
    for each in waiting:
        with each:
            assert read_bodies(each, 1) == [b"1000"]
    assert 1 <= time.perf_counter() - begin < 3  # one after the other they would take 1 s each


def check_echoes(connect: Connect) -> None:
    """Validate `8gbit`: bodies of any size come back byte for byte, in both framings."""
    with connect() as connection:
        for size in (0, 1, 63, 10_000, 100_000, random.randint(0, MIB), MIB - 1, MIB):
            body = random.randbytes(size)
            for framed in (with_length, chunked):
                content = framed("POST", "/echo", body, b"content-type: application/x-any\r\n")
                response = respond_to(connection, Exchange(content, body))
                assert response.headers[b"content-type"] == b"application/x-any"
                assert response.headers[b"content-length"] == b"%d" % size
        exchange = an_echo()
        send_in_pieces(connection, exchange.request, 100)
        assert read_bodies(connection, 1) == [exchange.body]


def check_too_large(connect: Connect) -> None:
    """Send bodies above the limits: each is a 413, and the request that was sent right behind it gets its response."""
    with connect() as connection:
        for target, size in (("/echo", MIB + 1), ("/echo", 4 * MIB), ("/baseline11?a=1", 65), ("/baseline11", 100_000)):
            for framed in (with_length, chunked):
                behind = a_sum()
                connection.sendall(framed("POST", target, b"1" * size) + behind.request)
                refused, served = read_responses(connection, 2)
                assert refused.status == 413
                assert refused.headers[b"content-type"].startswith(TEXT)
                assert (served.status, served.body) == (200, behind.body)

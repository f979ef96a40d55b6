"""What would end a worker of Granian's if an application sent it: a status that is none, too many headers."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import websockets
from websockets.frames import Close

from app.launcher.asgi import Application, Message, Receive, Send
from app.launcher.checked import LONGEST_REFUSAL, TURN, Checked
from tests.support.configuration import configured, with_web_sockets
from tests.support.http1 import read_to_end
from tests.support.processes import ROOT
from tests.support.service import Launch, Service
from tests.support.web_sockets import WebSocket

SOURCE = """
from tests.support.applications import respond

def many(number):
    return ((b"x-%d" % each, b"y") for each in range(int(number)))

COOKIES = [(b"set-cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"x", b"y")]

async def app(scope, receive, send):
    if scope.get("path") == "/list":
        await respond(send, b"ok", *many(scope["query_string"]))
    elif scope.get("path") == "/generator":
        headers = many(scope["query_string"])
        start = "websocket.http" if scope["type"] == "websocket" else "http"
        await send({"type": f"{start}.response.start", "status": 403, "headers": headers})
        await send({"type": f"{start}.response.body", "body": b"no"})
    elif scope["type"] == "http":
        await respond(send, b"ok", status=int(scope["query_string"] or b"200"))
    elif scope["type"] == "websocket":
        await receive()
        if scope["path"] == "/headers":
            await send({"type": "websocket.accept", "headers": COOKIES})
            return await send({"type": "websocket.close", "code": 3000})
        if scope["path"] == "/close":
            await send({"type": "websocket.accept"})
            character, number = map(int, scope["query_string"].split(b"*"))
            return await send({"type": "websocket.close", "code": 3000, "reason": chr(character) * number})
        if scope.get("path") == "/subprotocol":
            await send({"type": "websocket.accept", "subprotocol": "a\\nb"})
        await send({"type": "websocket.http.response.start", "status": int(scope["path"][1:]), "headers": COOKIES})
        await send({"type": "websocket.http.response.body", "body": b"no"})
    else:
        raise NotImplementedError
"""


@pytest.fixture
def start(launch: Launch, tmp_path: Path) -> Callable[[str], Service]:
    def start(runs: str) -> Service:
        (tmp_path / "odd_statuses.py").write_text(SOURCE)
        variables = {"APPLICATION": "odd_statuses:app", "PYTHONPATH": f"{tmp_path}:{ROOT}", "APPLICATION_RUNS": runs}
        return launch(configured(tmp_path, with_web_sockets()), WORKERS="1", **variables).ready()

    return start


@pytest.mark.parametrize("runs", ["loop", "inline"])
def test_a_status_that_is_none_is_500(start: Callable[[str], Service], runs: str) -> None:
    service = start(runs)
    before = service.all_workers()
    for status in (1000, 199, 101, 100, 99, 0, -1, 70000):
        assert httpx.get(f"{service.url}/?{status}", trust_env=False).status_code == 500
    assert httpx.get(f"{service.url}/?999", trust_env=False).status_code == 999
    assert service.all_workers() == before
    service.stop()
    assert "panicked" not in service.errors.path.read_text()


@pytest.mark.parametrize("runs", ["loop", "inline"])
def test_more_headers_than_can_be_sent_are_500(start: Callable[[str], Service], runs: str) -> None:
    service = start(runs)
    before = service.all_workers()
    for form, status in (("list", 200), ("generator", 403)):
        assert httpx.get(f"{service.url}/{form}?3", trust_env=False).headers["x-2"] == "y"
        assert httpx.get(f"{service.url}/{form}?30000", trust_env=False).status_code == 500
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:  # httpx takes fewer
            connection.sendall(b"GET /%s?19000 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" % form.encode())
            assert read_to_end(connection).startswith(b"HTTP/1.1 %d " % status)
    assert service.all_workers() == before
    service.stop()
    said = service.errors.path.read_text()
    assert "panicked" not in said
    assert "ValueError: a response has 30001 headers; give it 20000 at most" in said  # one is the content's type


@pytest.mark.parametrize("runs", ["loop", "inline"])
@pytest.mark.parametrize(
    ("path", "status"),
    [("generator?3", 403), ("generator?30000", 403), ("403", 403), ("1000", 403), ("99", 403), ("subprotocol", 403)],
)
def test_a_refused_web_socket_costs_no_worker(
    start: Callable[[str], Service], runs: str, path: str, status: int
) -> None:
    service = start(runs)
    before = service.all_workers()
    with pytest.raises(websockets.InvalidStatus) as refused:
        WebSocket(f"ws://127.0.0.1:{service.port}/{path}")
    assert refused.value.response.status_code == status
    if path == "403":
        assert refused.value.response.headers.get_all("set-cookie") == ["b=2"]
    assert service.all_workers() == before
    service.stop()
    said = service.errors.path.read_text()
    assert "panicked" not in said
    assert said.count("has a header more than once") == (path == "403")


@pytest.mark.parametrize("runs", ["loop", "inline"])
def test_headers_of_an_accepted_web_socket_are_reported_once(start: Callable[[str], Service], runs: str) -> None:
    service = start(runs)
    for path in ("headers", "headers", "close?97*1"):
        with WebSocket(f"ws://127.0.0.1:{service.port}/{path}") as client, pytest.raises(websockets.ConnectionClosed):
            client.recv()
    service.stop()
    assert service.errors.path.read_text().count("is accepted with headers; Granian drops them") == 1


@pytest.mark.parametrize("runs", ["loop", "inline"])
@pytest.mark.parametrize(("character", "heard"), [("r", 123), ("\u00e9", 61), ("\u20ac", 41), ("\U0001f600", 30)])
def test_a_reason_for_a_close_is_cut_where_its_frame_ends(
    start: Callable[[str], Service], runs: str, character: str, heard: int
) -> None:
    """After 123 bytes of UTF-8; a client takes a longer control frame for a fault of the protocol."""
    service = start(runs)
    for said in (heard, heard + 1, 1000):
        with WebSocket(f"ws://127.0.0.1:{service.port}/close?{ord(character)}*{said}") as client:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                client.recv()
            assert closed.value.rcvd == Close(3000, character * heard)
    service.stop()


def test_a_reason_that_cannot_be_encoded_is_sent_as_far_as_it_can(start: Callable[[str], Service]) -> None:
    service = start("loop")
    with WebSocket(f"ws://127.0.0.1:{service.port}/close?{0xD800}*3") as client:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd == Close(3000, "???")
    service.stop()


def run(application: Application, scope: Message, send: Send) -> None:
    """Call an application, for which there is nothing to receive, with what is checked between."""

    async def receive() -> Message:
        raise AssertionError("nothing to receive")

    async def call() -> None:
        await Checked(application)(scope, receive, send)

    asyncio.run(call())


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_messages_that_tasks_send_stay_in_order(kind: str) -> None:
    """Others get a turn after some: not before one, which the next would overtake."""
    received: list[int] = []

    async def application(_: Message, __: Receive, send: Send) -> None:
        messages = [{"type": f"{kind}.send", "number": number} for number in range(3 * TURN)]
        await asyncio.gather(*map(send, messages))

    async def send(message: Message) -> None:
        received.append(message["number"])

    run(application, {"type": kind, "method": "GET", "http_version": "1.1"}, send)
    assert received == list(range(3 * TURN))


def test_a_refusal_that_does_not_end_is_given_up() -> None:
    """Granian takes one part, so that all are kept until the last, whether the client is there or not."""
    sent = 0

    async def application(_: Message, __: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        while sent < 2 * LONGEST_REFUSAL:
            await send({"type": "websocket.http.response.body", "body": b"x" * 1024, "more_body": True})
            sent += 1024

    async def send(_: Message) -> None:
        """Nobody reads it."""

    with pytest.raises(ValueError, match=f"has more than {LONGEST_REFUSAL} bytes; make it shorter"):
        run(application, {"type": "websocket"}, send)
    assert sent == LONGEST_REFUSAL


def test_a_second_start_does_not_change_the_length_of_a_body() -> None:
    """Granian refuses it, whereupon an application may go on with the first."""
    sent: list[Message] = []

    async def application(_: Message, __: Receive, send: Send) -> None:
        for length in (b"x", b"2", b"8"):
            headers = [(b"content-length", length)]
            with suppress(ValueError, RuntimeError):
                await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ab"})

    async def send(message: Message) -> None:
        if any(each["type"] == message["type"] for each in sent):
            raise RuntimeError("Response already started")
        sent.append(message)

    run(application, {"type": "http", "method": "GET", "http_version": "1.1"}, send)
    assert [(each.get("headers"), each.get("body")) for each in sent] == [
        ([(b"content-length", b"2")], None),
        (None, b"ab"),
    ]


def test_an_empty_part_within_a_body_is_not_sent() -> None:
    """Over HTTP/2 it would be a frame of its own: Node ends a connection at the thousandth."""
    sent: list[Message] = []

    async def application(_: Message, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for body in (b"", b"", b"a", b"", b"b"):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})

    async def send(message: Message) -> None:
        sent.append(message)

    run(application, {"type": "http", "method": "GET", "http_version": "2"}, send)
    assert [each.get("body") for each in sent[1:]] == [b"", b"a", b"b", None]


def test_parts_of_a_body_that_tasks_send_stay_in_order() -> None:
    """Granian's `send` may take any time for each."""
    received: list[int] = []

    async def application(_: Message, __: Receive, send: Send) -> None:
        await asyncio.gather(*(send({"type": "http.response.body", "number": number}) for number in range(10)))

    async def send(message: Message) -> None:
        await asyncio.sleep(0.01 if message["number"] % 2 else 0)
        received.append(message["number"])

    run(application, {"type": "http", "method": "GET", "http_version": "1.1"}, send)
    assert received == list(range(10))


def test_what_is_sent_without_an_event_loop_stays_there() -> None:
    """As an application that runs inline does: it would go on in another thread."""

    async def application(_: Message, __: Receive, send: Send) -> None:
        for number in range(3 * TURN):
            await send({"type": "http.response.body", "number": number})

    async def send(_: Message) -> None:
        return

    async def call() -> None:
        await Checked(application)({"type": "http", "method": "GET", "http_version": "1.1"}, send, send)  # type: ignore[arg-type]

    with pytest.raises(StopIteration):
        call().send(None)

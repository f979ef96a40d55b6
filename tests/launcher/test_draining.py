"""The close notice: what a client reads on a response while a server process is drained."""

import asyncio
from typing import Any

import pytest

from app.launcher import web_sockets
from app.launcher.asgi import Message, Receive, Send
from app.launcher.connections import packed
from app.launcher.draining import Draining
from app.launcher.web_sockets import WebSockets


async def nothing_to_do() -> None:
    return


def responding(*headers: tuple[bytes, bytes]) -> Draining:
    async def application(_: Message, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x"})

    return Draining("json", application, nothing_to_do, WebSockets("json", 0))


def sent(notice: Draining, scope: Message) -> list[Message]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing to receive")

    async def call() -> None:
        await notice(scope, receive, send)

    asyncio.run(call())
    return messages


class Other:
    client = None


class Unclosed:
    """A WebSocket that another thread adds one beside while it is looked at."""

    def __init__(self, all_of_them: set[Any]) -> None:
        self.all = all_of_them

    @property
    def accepted(self) -> bool:
        self.all.add(Other())
        return False

    client = None

    def stop_receiving(self) -> None:
        """It waits for nothing."""


def test_a_web_socket_that_comes_in_another_thread_does_not_hinder_the_close_of_others() -> None:
    draining = responding()
    untyped: Any = draining.web_sockets.open
    untyped.add(Unclosed(untyped))
    asyncio.run(draining.before_drain())
    assert draining.web_sockets.restarting


class Unread:
    """A WebSocket whose client reads slowly."""

    accepted, closed, client, arrivals = True, False, ("127.0.0.1", "1"), 0
    given_up = False

    def read_ahead(self, _: float) -> None:
        """Nothing has come."""

    async def close(self) -> None:
        await asyncio.sleep(60)

    def give_up(self, _: str) -> None:
        self.given_up = True


def test_what_clients_take_is_looked_for_again_if_no_file_or_thread_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    one, looks = Unread(), [OSError(), OSError(), {packed("127.0.0.1", 1): 5}, {packed("127.0.0.1", 1): 5}]
    given_up_before = []

    def look(_: int) -> Any:  # noqa: ANN401 - a Mapping, or nothing
        given_up_before.append(one.given_up)
        if isinstance(taken := looks.pop(0), OSError):
            raise taken
        return taken

    monkeypatch.setattr(web_sockets, "acknowledged", look)
    monkeypatch.setattr(web_sockets, "CLOSE_FRAMES", 0.01)
    ones = WebSockets("test", 0, patience=60)
    untyped: Any = ones.open
    untyped.add(one)
    asyncio.run(ones.close())
    assert (given_up_before, looks, one.given_up) == ([False] * 4, [], True)


HTTP1 = {"type": "http", "http_version": "1.1"}


def test_nothing_is_added_before_it_begins() -> None:
    (start, _) = sent(responding((b"a", b"b")), HTTP1)
    assert list(start["headers"]) == [(b"a", b"b")]


def test_every_response_has_it_once_it_has_begun() -> None:
    notice = responding((b"a", b"b"))
    notice.send_close_notice()
    for _ in range(2):
        start, body = sent(notice, HTTP1)
        assert start["headers"] == [(b"a", b"b"), (b"connection", b"close")]
        assert body["body"] == b"x"


@pytest.mark.parametrize("content", [b"text/plain", b"text/event-stream; charset=utf-8"])
def test_a_response_has_it_if_it_has_begun_before_the_first_part(content: bytes) -> None:
    """Granian keeps the head until then, but for event streams, which clients wait for."""

    async def application(_: Message, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", content)]})
        notice.send_close_notice()
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b"y"})

    notice = Draining("json", application, nothing_to_do, WebSockets("json", 0))
    start, *parts = sent(notice, HTTP1)
    assert start["headers"][1:] == ([(b"connection", b"close")] if content == b"text/plain" else [])
    assert [each["body"] for each in parts] == [b"x", b"y"]


def test_a_response_that_is_started_twice_is_granians_to_refuse() -> None:
    async def application(_: Message, __: Receive, send: Send) -> None:
        for status in (200, 201):
            await send({"type": "http.response.start", "status": status, "headers": []})

    messages = sent(Draining("json", application, nothing_to_do, WebSockets("json", 0)), HTTP1)
    assert [each["status"] for each in messages] == [200, 201]


def test_it_takes_the_place_of_the_applications_own_connection_header() -> None:
    notice = responding((b"Connection", b"keep-alive"))
    notice.send_close_notice()
    assert sent(notice, HTTP1)[0]["headers"] == [(b"connection", b"close")]


@pytest.mark.parametrize("scope", [{"type": "http", "http_version": "2"}, {"type": "websocket", "http_version": "1.1"}])
def test_http_2_and_websockets_have_none(scope: Message) -> None:
    notice = responding()
    notice.send_close_notice()
    assert list(sent(notice, scope)[0]["headers"]) == []

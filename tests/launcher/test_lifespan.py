"""What an application does with its lifespan, against Granian's own half of the protocol."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from granian import asgi

from app.launcher import lifespan
from app.launcher.asgi import Application, Message, Receive, Send
from app.launcher.draining import Draining
from app.launcher.web_sockets import WebSockets

Granian: Any = asgi.LifespanProtocol  # it has no types
STARTED: Message = {"type": "lifespan.startup.complete"}
ENDED: Message = {"type": "lifespan.shutdown.complete"}


async def without_a_look_at_the_type(_: Message, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})


async def without_lifespan(scope: Message, _: Receive, __: Send) -> None:
    assert scope["type"] == "http"


async def failing_startup(_: Message, receive: Receive, __: Send) -> None:
    await receive()
    raise RuntimeError("db down")


async def returning_early(_: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send(STARTED)


async def failing_later(_: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send(STARTED)
    await asyncio.sleep(0)
    raise RuntimeError("pool gone")


async def failing_shutdown(_: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send(STARTED)
    await receive()
    raise RuntimeError("cannot close")


async def starting_twice(_: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send(STARTED)
    await send(STARTED)


class Unwritable(Exception):  # noqa: N818 - it is what it is
    def __repr__(self) -> str:
        raise LookupError


async def failing_unwritably(_: Message, receive: Receive, __: Send) -> None:
    await receive()
    raise Unwritable


async def cancelled(_: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send(STARTED)
    raise asyncio.CancelledError


async def shutting_down_early(_: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send(STARTED)
    await send(ENDED)


async def failing_while_requests_go_on(_: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send(STARTED)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.015):  # it is told to shut down after 0.01 s
            await receive()


async def polling(_: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send(STARTED)
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.002):
                await receive()
                break
    await send(ENDED)


async def saying_nothing(_: Message, receive: Receive, __: Send) -> None:
    await receive()
    await receive()


async def complete(_: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send(STARTED)
    await receive()
    await send(ENDED)


@pytest.mark.parametrize(
    ("application", "reported"),
    [
        (without_a_look_at_the_type, ["startup raised KeyError('http.response.start'); it is served without"]),
        (without_lifespan, []),
        (failing_startup, ["startup raised RuntimeError('db down'); it is served without a lifespan"]),
        (returning_early, []),
        (failing_later, ["lifespan raised RuntimeError('pool gone'); it is served on, and its shutdown will not run"]),
        (failing_shutdown, ["shutdown raised RuntimeError('cannot close'); the worker ends all the same"]),
        (starting_twice, ["lifespan raised AssertionError('Invalid lifespan state transition'); it is served on"]),
        (failing_unwritably, ["startup raised Unwritable; it is served without a lifespan"]),
        (cancelled, ["lifespan raised CancelledError(); it is served on, and its shutdown will not run"]),
        (shutting_down_early, ["lifespan raised RuntimeError('lifespan.shutdown.complete was sent before lifespan.sh"]),
        (failing_while_requests_go_on, []),
        (polling, []),
        (complete, []),
    ],
)
def test_however_it_ends_its_start_is_noted_and_requests_are_waited_for(
    application: Application, reported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(lifespan, "warn", lines.append)
    order: list[str] = []

    ended = asyncio.Event()  # of the last request

    async def requests_done() -> None:
        asyncio.get_running_loop().call_later(0.01, ended.set)
        await ended.wait()
        order.append("requests done")

    draining = Draining("json", application, requests_done, WebSockets("json", 0))
    draining.on_started = lambda: order.append("started")

    async def worker() -> bool:
        granian = Granian(draining)
        await granian.startup()
        await asyncio.sleep(0.01)  # it serves
        order.append("stop")
        await granian.shutdown()
        order.append("ended")
        return bool(granian.errored)

    assert not asyncio.run(worker())
    assert order == ["started", "stop", "requests done", "ended"]
    assert len(lines) == len(reported)
    assert all(each in line for each, line in zip(reported, lines, strict=True)), lines


def test_one_that_never_says_that_it_has_started_is_waited_for() -> None:
    """As by Granian, and by uvicorn: `start_deadline` bounds it."""

    async def worker() -> bool:
        draining = Draining("json", saying_nothing, lambda: asyncio.sleep(0), WebSockets("json", 0))
        starting = asyncio.create_task(Granian(draining).startup())
        done, _ = await asyncio.wait([starting], timeout=0.05)
        return bool(done)

    assert not asyncio.run(worker())

"""How a request's coroutine runs: inline until it waits, or on the loop from the start."""

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any

import pytest
import uvloop

from app.launcher.asgi import Message
from app.launcher.scheduling import LOOK, REQUEST, WaitsInlineError, inline, on_loop, requests_done, watched

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


class Watcher:
    """Granian's, as far as it is used."""

    def __init__(self) -> None:
        self.scope: Message = {"type": "http", "path": "/"}
        self.proto = None
        self.task: asyncio.Task[None] | None = None
        self.ended: object = "not yet"

    def done(self) -> None:
        self.ended = None

    def err(self, error: BaseException) -> None:
        self.ended = error

    def taskref(self, task: asyncio.Task[None]) -> None:
        self.task = task


@pytest.fixture
def loop() -> Iterator[uvloop.Loop]:
    with closing(uvloop.Loop()) as made:
        yield made


def brought(schedule: Callable[[Any], None]) -> tuple[Watcher, threading.Thread]:
    """Bring a request in a thread of its own, and wait until that is done with it."""
    watcher = Watcher()
    thread = threading.Thread(target=schedule, args=(watcher,))
    thread.start()
    thread.join()
    return watcher, thread


def bring(schedule: Callable[[Any], None], path: str, watcher: Watcher) -> None:
    watcher.scope["path"] = path
    schedule(watcher)


def of(step: Callable[[], Coroutine[Any, None, None]]) -> Callable[[Any], Coroutine[Any, None, None]]:
    return watched(lambda *_: step())


def test_inline_a_coroutine_runs_at_once_in_the_thread_that_brings_it(loop: uvloop.Loop) -> None:
    done: list[threading.Thread] = []

    async def step() -> None:
        done.append(threading.current_thread())

    watcher, thread = brought(inline(loop, contextvars.copy_context(), of(step)))
    assert done == [thread]
    assert watcher.task is None


def test_inline_a_bare_suspension_moves_it_to_the_loop_where_it_may_wait(loop: uvloop.Loop) -> None:
    done: list[threading.Thread] = []

    async def step() -> None:
        token = variable.set("mine")
        done.append(threading.current_thread())
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        done.append(threading.current_thread())
        assert variable.get() == "mine"
        variable.reset(token)  # fails in another context

    watcher, thread = brought(inline(loop, contextvars.copy_context(), of(step)))
    assert done == [thread]
    loop.run_until_complete(asyncio.sleep(0))  # the task is made
    assert watcher.task is not None
    assert watcher.task.get_name() == REQUEST
    loop.run_until_complete(watcher.task)
    assert done == [thread, threading.current_thread()]


def test_inline_a_request_that_works_on_after_its_response_is_waited_for(loop: uvloop.Loop) -> None:
    began, goes_on, done = threading.Event(), threading.Event(), []

    async def step() -> None:
        began.set()
        goes_on.wait(30)
        done.append("this step")
        await asyncio.sleep(0)
        done.append("what has moved to the loop")

    async def stop() -> None:
        waiting = asyncio.create_task(requests_done())
        await asyncio.sleep(3 * LOOK)
        assert not waiting.done()
        goes_on.set()
        await waiting

    schedule = inline(loop, contextvars.copy_context(), of(step))
    thread = threading.Thread(target=schedule, args=(Watcher(),))
    thread.start()
    began.wait(30)
    loop.run_until_complete(stop())
    thread.join()
    assert done == ["this step", "what has moved to the loop"]


def test_inline_an_error_that_cannot_be_written_is_the_watchers(loop: uvloop.Loop) -> None:
    class UnwritableError(RuntimeError):
        def __str__(self) -> str:
            raise TypeError

    async def fail(_: object, __: object) -> None:
        raise UnwritableError

    watcher, _ = brought(inline(loop, contextvars.copy_context(), watched(fail)))
    assert isinstance(watcher.ended, UnwritableError)


def test_inline_two_requests_do_not_share_context_variables(loop: uvloop.Loop) -> None:
    found: list[str] = []

    async def step() -> None:
        found.append(variable.get("unset"))
        variable.set("mine")

    schedule = inline(loop, contextvars.copy_context(), of(step))
    schedule(Watcher())
    schedule(Watcher())
    assert found == ["unset", "unset"]


def test_inline_an_exception_after_the_move_reaches_the_coroutine(loop: uvloop.Loop) -> None:
    caught: list[type[BaseException]] = []

    async def step() -> None:
        await asyncio.sleep(0)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            caught.append(type(error))

    watcher, _ = brought(inline(loop, contextvars.copy_context(), of(step)))
    loop.run_until_complete(asyncio.sleep(0.01))
    assert watcher.task is not None
    watcher.task.cancel()
    loop.run_until_complete(watcher.task)
    assert caught == [asyncio.CancelledError]


class OfGranian:
    """What Granian receives, as far as it is used."""

    def __init__(self) -> None:
        self.callback: Callable[[object], None] | None = None

    def __await__(self) -> Generator[object, None, None]:
        if self.callback is None:
            yield self

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        self.callback = callback


OfGranian.__module__ = "granian._granian"


def test_inline_a_request_that_waits_for_its_body_is_not_done(loop: uvloop.Loop) -> None:
    receives = OfGranian()

    async def step() -> None:
        await receives

    async def wait_for_requests() -> None:
        waiting = asyncio.create_task(requests_done())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert receives.callback is not None
        receives.callback(receives)
        await waiting

    watcher = Watcher()
    inline(loop, contextvars.copy_context(), of(step))(watcher)
    loop.run_until_complete(wait_for_requests())
    assert watcher.task is None


def test_inline_a_web_socket_is_on_the_loop_from_its_first_message(loop: uvloop.Loop) -> None:
    receives = OfGranian()

    async def step() -> None:
        await receives

    watcher = Watcher()
    watcher.scope["type"] = "websocket"
    inline(loop, contextvars.copy_context(), of(step))(watcher)
    loop.run_until_complete(asyncio.sleep(0))
    assert watcher.task is not None
    with suppress(RuntimeError):  # it is no future of asyncio's
        loop.run_until_complete(watcher.task)


class Foreign:
    """Something to wait for that is neither Granian's nor a bare suspension."""

    def __await__(self) -> Generator[object, None, None]:
        yield self


def test_inline_waiting_for_anything_else_raises_there(loop: uvloop.Loop) -> None:
    raised: list[Exception] = []

    async def step() -> None:
        try:
            await Foreign()
        except RuntimeError as error:
            raised.append(error)
            raise

    with pytest.raises(WaitsInlineError):  # Granian's coroutine around it catches all
        inline(loop, contextvars.copy_context(), lambda _: step())(Watcher())
    assert [type(each) for each in raised] == [WaitsInlineError]


def test_inline_a_coroutine_that_insists_on_waiting_is_closed(loop: uvloop.Loop) -> None:
    ended: list[bool] = []

    async def step() -> None:
        try:
            while True:
                try:
                    await Foreign()
                except RuntimeError:
                    continue
        finally:
            ended.append(True)

    inline(loop, contextvars.copy_context(), of(step))(Watcher())
    assert ended == [True]


def test_on_the_loop_a_coroutine_runs_there_from_the_start(loop: uvloop.Loop) -> None:
    done: list[threading.Thread] = []

    async def step() -> None:
        done.append(threading.current_thread())

    watcher, _ = brought(on_loop(loop, contextvars.copy_context(), of(step)))
    assert done == []
    loop.run_until_complete(asyncio.sleep(0))
    assert watcher.task is not None
    loop.run_until_complete(watcher.task)
    assert done == [threading.current_thread()]


def test_requests_are_done_when_no_task_of_one_is_left(loop: uvloop.Loop) -> None:
    done: list[str] = []
    go_on = asyncio.Event()

    async def step() -> None:
        await go_on.wait()
        done.append("request")

    async def wait_for_requests() -> None:
        others = asyncio.create_task(asyncio.Event().wait())  # the application's own, which never ends
        waiting = asyncio.create_task(requests_done())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        go_on.set()
        await waiting
        assert done == ["request"]
        others.cancel()

    on_loop(loop, contextvars.copy_context(), of(step))(Watcher())
    loop.run_until_complete(wait_for_requests())


def test_a_request_that_has_just_come_is_waited_for(loop: uvloop.Loop) -> None:
    done: list[str] = []

    async def step() -> None:
        await asyncio.sleep(0.01)
        done.append("request")

    on_loop(loop, contextvars.copy_context(), of(step))(Watcher())
    loop.run_until_complete(requests_done())
    assert done == ["request"]


def brought_to(loop: uvloop.Loop, application: Callable[[Message], Awaitable[None]], *paths: str) -> list[object]:
    """Bring requests to an application that runs inline; return how each ended: with an exception, or None."""

    async def call(scope: Message, _: Any) -> None:  # noqa: ANN401
        await application(scope)

    schedule = inline(loop, contextvars.copy_context(), watched(call))
    return [brought(partial(bring, schedule, path))[0].ended for path in paths]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # that of /task
def test_each_place_that_waits_is_reported_once(loop: uvloop.Loop, capfd: pytest.CaptureFixture[str]) -> None:
    async def application(scope: Message) -> None:
        if scope["path"] == "/sleep":
            await asyncio.sleep(1)
        if scope["path"] == "/event":
            await asyncio.Event().wait()
        if scope["path"] == "/task":
            asyncio.create_task(asyncio.sleep(0))  # noqa: RUF006 - it fails
        if scope["path"] == "/foreign":
            await Foreign()

    paths = ("/sleep", "/event", "/task", "/foreign")
    ended = brought_to(loop, application, *paths, *paths, "/")
    assert ended == [None] * 9  # so that Granian, without a response, sends 500
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len({line.partition(" ")[0] for line in lines}) == 4
    assert all(line.startswith(f"{__file__}:") and 'set runs = "loop"' in line for line in lines)


def test_other_errors_are_the_applications(loop: uvloop.Loop, capfd: pytest.CaptureFixture[str]) -> None:
    errors = {"/runtime": RuntimeError("a"), "/attribute": AttributeError("b"), "/value": ValueError("c")}

    async def application(scope: Message) -> None:
        raise errors[scope["path"]]

    assert brought_to(loop, application, *errors) == list(errors.values())
    assert capfd.readouterr().err == ""

"""How a request's coroutine runs in a worker: in the thread that brings the request, or on the event loop.

Granian creates the coroutine in one of its own threads. Handing it over to the loop means to wake another thread, which
costs more than a short response (bench/REPORT.md). A coroutine that never waits ends at its first step, so `inline`
takes that step at once, where the coroutine was created. If it waits for the request's body, the next step is taken where
Granian has read it, for the same reason.
"""

import asyncio
import re
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from types import coroutine as generator_based_coroutine
from typing import Any

from app.launcher.asgi import Message
from app.launcher.log import warn

REQUEST = "a request"  # what asyncio calls each task that runs one
LOOK = 0.02  # seconds between looks at whether all requests have ended
REFUSALS = 10  # times that a coroutine may catch the error for waiting, and wait again
NO_LOOP = re.compile("event loop|async library|async context|'NoneType' object has no attribute 'create_future'")
"""What asyncio, anyio and sniffio say when they are used outside of a loop."""
LIBRARIES = re.compile(r"/(asyncio|anyio|sniffio)/|/app/launcher/")

Coro = Coroutine[Any, None, None]
Call = Callable[[Any], Coro]
Schedule = Callable[[Any], None]
"""Run a request: it gets Granian's watcher of it, from which `Call` makes the coroutine."""

_under_way: set[object] = set()
"""An object for each request whose coroutine has begun and not ended: an application may name its tasks, or wrap them."""


class WaitsInlineError(RuntimeError):
    """An application that runs inline waits for something that it may not wait for there."""


def watched(call_application: Callable[[Message, Any], Awaitable[None]]) -> Call:
    """Return what makes a request's coroutine, which tells the watcher how the application has ended.

    Granian logs an exception, and responds with 500 if there was no response. If the application may not wait where it
    does, that is reported instead, once for each place in the code.
    """
    reported: set[str] = set()

    async def request(watcher: Any) -> None:  # noqa: ANN401 - a private type of Granian's
        _under_way.add(this := object())
        try:
            await call_application(watcher.scope, watcher.proto)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the watcher's
            if not _is_for_waiting(error):
                watcher.err(error)
                return
            if (place := _place(error)) not in reported:
                reported.add(place)
                warn(
                    f'{place}: an application that runs inline may not wait there ({error}); set runs = "loop", or'
                    f" await asyncio.sleep(0) before, which moves the request to the event loop"
                )
        finally:
            _under_way.discard(this)
        watcher.done()

    return request


def on_loop(loop: asyncio.AbstractEventLoop, context: Context, call: Call) -> Schedule:
    """Return what runs each request as a task on the loop."""

    def start(coroutine: Coro, watcher: Any) -> None:  # noqa: ANN401
        watcher.taskref(loop.create_task(coroutine, name=REQUEST))

    def schedule(watcher: Any) -> None:  # noqa: ANN401
        loop.call_soon_threadsafe(start, call(watcher), watcher, context=context)

    return schedule


class Waiting:
    """A request that runs inline and waits for what Granian receives or sends: for a part of its body, say.

    Granian's thread passes it to the loop's `call_soon_threadsafe` when that is there, and `InlineWorkerLoop` calls it at once.
    """

    __slots__ = ("context", "coroutine", "loop", "watcher")

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coro, watcher: Any, context: Context) -> None:  # noqa: ANN401
        """Wait for nothing yet; `context` is the request's own."""
        self.loop = loop
        self.coroutine = coroutine
        self.watcher = watcher
        self.context = context

    def wait_for(self, awaited: Any) -> None:  # noqa: ANN401
        """Wait inline for what is Granian's; move to the loop at a bare suspension, and refuse to wait for the rest."""
        refusals = 0
        try:
            while refusals < REFUSALS:
                of_granian = type(awaited).__module__ == "granian._granian"
                if awaited is None or (of_granian and self.watcher.scope["type"] != "http"):
                    self.loop.call_soon_threadsafe(self._move, awaited)
                    return
                if of_granian:
                    awaited.add_done_callback(self)  # it cannot be there already: this thread will have it
                    return
                awaited = self.context.run(self.coroutine.throw, WaitsInlineError(f"it waits for {awaited!r}"))
                refusals += 1
        except StopIteration:  # it has ended
            return
        self.coroutine.close()

    def __call__(self, _: object) -> None:
        """Go on: what it waits for is there."""
        try:
            awaited = self.context.run(self.coroutine.send, None)
        except StopIteration:
            return
        self.wait_for(awaited)

    def _move(self, awaited: object) -> None:
        rest = _from_there(self.coroutine, awaited)
        self.watcher.taskref(self.loop.create_task(rest, name=REQUEST, context=self.context))


def inline(loop: asyncio.AbstractEventLoop, context: Context, call: Call) -> Schedule:
    """Return what runs each request at once, until it waits; `loop` is an InlineWorkerLoop.

    It may wait for what Granian receives and sends, and goes on in the thread that has it. A bare suspension
    (`await asyncio.sleep(0)`) moves it to the loop, where it may wait for anything, and so does a WebSocket's first
    message. Waiting for anything else raises WaitsInlineError in it.
    """

    def schedule(watcher: Any) -> None:  # noqa: ANN401
        coroutine = call(watcher)
        own = context.copy()
        try:
            awaited = own.run(coroutine.send, None)
        except StopIteration:  # it has ended
            return
        Waiting(loop, coroutine, watcher, own).wait_for(awaited)

    return schedule


async def _from_there(coroutine: Coro, awaited: object) -> None:
    """Run a coroutine to its end that has taken its first step and waits for `awaited`."""
    await _remaining_steps(coroutine, awaited)


@generator_based_coroutine
def _remaining_steps(coroutine: Coro, awaited: object) -> Generator[object, None, None]:
    while True:
        error: BaseException | None = None
        try:
            yield awaited
        except BaseException as thrown:  # noqa: BLE001 - cancelled, or what it waited for has failed: it is the coroutine's
            error = thrown
        try:
            awaited = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration:
            return


async def requests_done() -> None:
    """Return when no request is left, on the loop or inline; one may work on after its response."""
    while True:
        for _ in range(2):  # one that has just come becomes a task, which then begins
            await asyncio.sleep(0)
        if not _under_way:
            return
        await asyncio.sleep(LOOK)


def _is_for_waiting(error: BaseException) -> bool:
    """Return whether the application has waited where the request was brought: the loop's thread is the main one."""
    if threading.current_thread() is threading.main_thread():
        return False
    if isinstance(error, WaitsInlineError):
        return True
    try:
        return isinstance(error, RuntimeError | AttributeError) and NO_LOOP.search(str(error)) is not None
    except Exception:  # noqa: BLE001 - the application's error cannot be written: it is no library's
        return False


def _place(error: BaseException) -> str:
    """Return file and line of the application's code that waits: the innermost frame that is no library's."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not LIBRARIES.search(each.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "(unknown)"

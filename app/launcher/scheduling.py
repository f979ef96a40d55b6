"""How a request's coroutine runs in a worker: in the thread that brings the request, or on the event loop.

Granian creates the coroutine in one of its own threads. Handing it over to the loop means to wake another thread, which
costs more than a short response (bench/REPORT.md). A coroutine that never waits ends at its first step, so `inline`
takes that step at once, where the coroutine was created.
"""

import asyncio
import re
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from types import coroutine as generator_based_coroutine
from typing import Any

from app.launcher.console import warn
from app.launcher.draining import Message

REQUEST = "a request"  # the name of each task that runs one
REFUSALS = 10  # times that a coroutine may catch the error for waiting, and wait again
NO_LOOP = re.compile("event loop|async library|async context|'NoneType' object has no attribute 'create_future'")
"""What asyncio, anyio and sniffio say when they are used outside of a loop."""
LIBRARIES = re.compile(r"/(asyncio|anyio|sniffio)/|/app/launcher/")

Coro = Coroutine[Any, None, None]
Call = Callable[[Any], Coro]
Schedule = Callable[[Any], None]
"""Run a request: it gets Granian's watcher of it, from which `Call` makes the coroutine."""


class WaitsInlineError(RuntimeError):
    """An application that runs inline waits for something that it may not wait for there."""


def watched(call_application: Callable[[Message, Any], Awaitable[None]]) -> Call:
    """Return what makes a request's coroutine, which tells the watcher how the application has ended.

    Granian logs an exception, and responds with 500 if there was no response. If the application may not wait where it
    does, that is reported instead, once for each place in the code.
    """
    reported: set[str] = set()

    async def request(watcher: Any) -> None:  # noqa: ANN401 - a private type of Granian's
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
        watcher.done()

    return request


def on_loop(loop: asyncio.AbstractEventLoop, context: Context, call: Call) -> Schedule:
    """Return what runs each request as a task on the loop."""

    def start(coroutine: Coro, watcher: Any) -> None:  # noqa: ANN401
        watcher.taskref(loop.create_task(coroutine, name=REQUEST))

    def schedule(watcher: Any) -> None:  # noqa: ANN401
        loop.call_soon_threadsafe(start, call(watcher), watcher, context=context)

    return schedule


def inline(loop: asyncio.AbstractEventLoop, context: Context, call: Call) -> Schedule:
    """Return what runs each request at once, until it waits.

    A bare suspension (`await asyncio.sleep(0)`), and waiting for what Granian receives or sends, moves it to the loop,
    where it may wait for anything. Waiting for anything else raises WaitsInlineError in it.
    """

    def go_on(coroutine: Coro, watcher: Any, own: Context) -> None:  # noqa: ANN401
        watcher.taskref(loop.create_task(coroutine, name=REQUEST, context=own))

    def schedule(watcher: Any) -> None:  # noqa: ANN401
        coroutine = call(watcher)
        own = context.copy()
        try:
            awaited = own.run(coroutine.send, None)
            for _ in range(REFUSALS):
                if awaited is None or type(awaited).__module__ == "granian._granian":
                    loop.call_soon_threadsafe(go_on, _from_there(coroutine, awaited), watcher, own)
                    return
                awaited = own.run(coroutine.throw, WaitsInlineError(f"it waits for {awaited!r}"))
        except StopIteration:  # it has ended
            return
        coroutine.close()

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
    """Return when no request's task is left in this loop."""
    while tasks := [each for each in asyncio.all_tasks() if each.get_name() == REQUEST]:
        await asyncio.wait(tasks)


def _is_for_waiting(error: BaseException) -> bool:
    """Return whether the application has waited where the request was brought: the loop's thread is the main one."""
    if threading.current_thread() is threading.main_thread():
        return False
    no_loop = isinstance(error, RuntimeError | AttributeError) and NO_LOOP.search(str(error)) is not None
    return no_loop or isinstance(error, WaitsInlineError)


def _place(error: BaseException) -> str:
    """Return file and line of the application's code that waits: the innermost frame that is no library's."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not LIBRARIES.search(each.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "(unknown)"

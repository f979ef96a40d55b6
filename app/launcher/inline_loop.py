"""A worker's event loop: uvloop, but for requests, which are answered in the thread that brings them."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from types import CoroutineType
from typing import Any

import uvloop


class Loop(uvloop.Loop):
    """An event loop for applications that never wait for anything.

    Granian (2.8.7, _futures.py) makes a request's scope in a thread of its own, which then wakes the loop's thread to run
    the application's coroutine. Ours is through at the first step, so it is run at once, and no other thread is woken for
    it (bench/REPORT.md has what that brings).
    """

    def call_soon_threadsafe(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,  # noqa: ANN401 - as they are asyncio's
        context: Context | None = None,
    ) -> asyncio.Handle | None:
        """Run a coroutine that is handed over; hand on everything else."""
        if not (args and isinstance(args[0], CoroutineType)):
            return super().call_soon_threadsafe(callback, *args, context=context)
        try:
            args[0].send(None)
        except StopIteration:
            return None
        args[0].close()  # it waits, and nobody would wake it: Granian's wrapper says so in the log, and answers 500
        return None


def build() -> Loop:
    """Make the loop of this thread."""
    loop = Loop()
    asyncio.set_event_loop(loop)
    return loop

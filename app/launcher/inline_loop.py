"""An event loop that runs a request's coroutine in the thread that brings it."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from types import CoroutineType
from typing import Any

import uvloop


class Loop(uvloop.Loop):
    """uvloop, except for the coroutines of applications that never wait for anything.

    Granian (2.8.7, _futures.py) creates a request's coroutine in one of its own threads, and hands it over to the
    loop's thread by `call_soon_threadsafe`, which has to be woken. An application that never waits ends at its first
    step, so the step is taken at once, in Granian's thread (bench/REPORT.md has what that brings).
    """

    def call_soon_threadsafe(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,  # noqa: ANN401 - as they are asyncio's
        context: Context | None = None,
    ) -> asyncio.Handle | None:
        """Run a coroutine that is handed over; pass on everything else."""
        if not (args and isinstance(args[0], CoroutineType)):
            return super().call_soon_threadsafe(callback, *args, context=context)
        try:
            args[0].send(None)
        except StopIteration:
            return None
        args[0].close()  # it waits, and nobody would wake it: Granian logs the error, and responds with 500
        return None

"""The event loop of a worker: uvloop's, but for two methods that Granian calls."""

import _thread
import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import uvloop

from app.launcher.draining import DRAIN
from app.launcher.scheduling import Waiting, requests_done

GRANIANS = "granian._signals"  # the module of the handlers that Granian registers (granian_private.py)
GRANIANS_WORKER = "granian.server.mp"  # the module of what it calls on the loop when its last connection has ended


class WorkerLoop(uvloop.Loop):
    """The loop of a worker, which takes DRAIN for the signal that Granian would wait for."""

    before_drain: Callable[[], Awaitable[None]]
    on_next_run: Callable[[], None] | None = None
    """Called when the loop is run again, once. Granian runs it for the startup, and then when it accepts, with all its threads."""
    _unheeded: dict[int, Any]
    """The handlers that the application's have taken the place of."""

    @classmethod
    def builder(cls, before_drain: Callable[[], Awaitable[None]]) -> Callable[[], uvloop.Loop]:
        """Return what makes a worker's loop, as Granian asks for it; `before_drain` runs before Granian drains."""

        def build() -> uvloop.Loop:
            loop = cls()
            loop.before_drain = before_drain
            loop._unheeded = {}
            asyncio.set_event_loop(loop)
            return loop

        return build

    def run_until_complete(self, future: Any) -> Any:  # noqa: ANN401 - as uvloop has it
        """Run it; see `on_next_run`."""
        called, self.on_next_run = self.on_next_run, None
        if called is not None:
            called()
        return super().run_until_complete(future)

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        """Register Granian's handler of SIGTERM for DRAIN, after `before_drain`; its handler of SIGINT is not heeded.

        uvloop's own handlers lose a signal that comes while the loop does not run: between the application's startup and
        Granian's service, say. The application's handlers are registered as ever.
        """
        if getattr(callback, "__module__", None) != GRANIANS:
            self._unheeded.setdefault(sig, signal.getsignal(sig))
            super().add_signal_handler(sig, callback, *args)
            return
        if sig != signal.SIGTERM:
            return
        draining: list[asyncio.Future[None]] = []

        def drain() -> None:
            if not draining:  # it comes twice: from the launcher's order, and when Granian stops its workers
                draining.append(asyncio.ensure_future(self.before_drain(), loop=self))
                draining[0].add_done_callback(lambda _: begin())

        def begin() -> None:
            self.call_soon_threadsafe = self._call_during_a_drain  # type: ignore[method-assign]
            callback(*args)

        signal.signal(DRAIN, lambda *_: self.call_soon_threadsafe(drain))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {DRAIN})

    def _call_during_a_drain(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:  # noqa: ANN401
        """Let Granian end when no request is left: it drops what they wait for together with its last connection.

        It would hang, or abort the worker (docs/upstream.md, F). The thread that calls is not the loop's.
        """
        if getattr(callback, "__module__", None) == GRANIANS_WORKER:
            done = _thread.allocate_lock()  # not a class of threading's, which an application may have replaced
            done.acquire()
            asyncio.run_coroutine_threadsafe(requests_done(), self).add_done_callback(lambda _: done.release())
            done.acquire()
        return type(self).call_soon_threadsafe(self, callback, *args, context=context)

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove the application's handler; a signal that workers do not heed is not heeded again."""
        removed: bool = super().remove_signal_handler(sig)
        if sig in self._unheeded:
            signal.signal(sig, self._unheeded.pop(sig))
        return removed


class InlineWorkerLoop(WorkerLoop):
    """The loop of a worker whose requests run inline."""

    def call_soon_threadsafe(  # type: ignore[override]  # it is Granian that calls it
        self,
        callback: Callable[..., object],
        *args: Any,  # noqa: ANN401
        context: Context | None = None,
    ) -> Any:  # noqa: ANN401
        """Call `callback` at once if it goes on with a request that waits inline: this thread has what it waits for."""
        if isinstance(callback, Waiting):
            return callback(*args)
        return super().call_soon_threadsafe(callback, *args, context=context)

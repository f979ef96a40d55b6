"""A worker as its server process sees it: Granian's, changed by overriding private names.

These are the names; app/launcher/granian_private.py says when they are checked: `granian.server.mp.WorkerProcess` with `.inner`,
`.idx`, `.birth`, `.parent`, `.interrupt_by_parent`, `.start`, `._watch`, `._watcher` and `.terminate`.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from granian.server import mp

from app.launcher.child import how_it_ended
from app.launcher.descriptors import WORKER_THREADS, open_descriptors, pipes_opened_since, try_threads
from app.launcher.draining import DRAIN
from app.launcher.log import warn

FORK_PAUSE = 0.5  # seconds until a fork that failed is tried again
PATIENCE = 0.1  # seconds until it is seen that the server was told to drain
DEAF = 3  # looks, GROWTH_INTERVAL apart: a stop (SIGSTOP) of the server process adds one at most
NOTED = 0.5  # seconds in which a thread notes an end that another has seen already


class NeverRespawned(dict[int, float]):
    """When workers were replaced: never. Granian takes a death within 5.5 s of it for a crash loop, or of the boot (0)."""

    def get(self, *_: object) -> Any:  # noqa: ANN401 - as `dict` has it
        """Return a time that is long past (time.monotonic())."""
        return -math.inf


class Worker(mp.WorkerProcess):
    """A worker as its server process sees it."""

    sentinels: frozenset[int] = frozenset()
    """Descriptors that the server process got by starting this worker, and that no other worker needs."""
    is_kept = False
    """Whether it serves on, as its replacement has not started; Granian takes it for one that has ended, for a moment."""
    noted: threading.Event | None = None  # set when its end has been logged
    is_killed = False  # by its server process
    death: float | None = None  # by time.monotonic()
    is_late = False  # which has been reported
    deaf = 0  # looks at which its startup was over, and it did not accept

    def start(self) -> None:
        """Start it, however often a fork or a thread has to be tried: others serve meanwhile."""
        self.noted = threading.Event()
        self._insist(self._fork)
        self._insist(self._watch)

    def _fork(self) -> None:
        try_threads(WORKER_THREADS)  # it will need them: without, it would die at once, again and again
        before = open_descriptors()
        # A signal that comes before the worker's loop can take it stays pending.
        signal.pthread_sigmask(signal.SIG_BLOCK, {DRAIN})
        try:
            self.inner.start()
        except BaseException:  # multiprocessing leaves its pipes open
            for descriptor in pipes_opened_since(before):
                os.close(descriptor)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {DRAIN})
        # Not what has been opened since: an application that is preloaded may open files at a fork.
        popen: Any = self.inner._popen  # noqa: SLF001 - CPython's, of which nothing else says both ends
        self.sentinels = frozenset(popen.finalizer._args)  # noqa: SLF001

    def _insist(self, act: Callable[[], None]) -> None:
        reported = False
        while not self.parent.interrupt_signal:
            try:
                act()
                break
            except (OSError, RuntimeError, MemoryError) as error:  # no more processes, threads or memory for now
                if not reported:
                    warn(
                        f"worker-{self.idx + 1} cannot be started ({error}); it is tried again until it can; if that"
                        f" takes long, raise the limits on processes (ulimit -u) and memory"
                    )
                    reported = True
                time.sleep(FORK_PAUSE)

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return f"worker-{self.idx + 1} (pid {self.inner.pid})"

    def _watcher(self) -> None:
        self.inner.join()
        self.death = time.monotonic()  # its server may take a while to come to it
        self.parent.startups.note_end(self.idx, self.inner.pid)  # type: ignore[attr-defined]
        try:
            self._note_end(self.death - self.birth)
        finally:
            if self.noted is not None:
                self.noted.set()

    def _note_end(self, lived: float) -> None:
        """Log its end if nobody asked for it, or a signal cut its drain; unless it was asked for, wake the server."""
        code = self._exitcode()
        if self.interrupt_by_parent:
            if code < 0 and not self.is_killed:
                lost = "before it was drained; the requests that it had are lost"
                warn(f"{self.name} ended ({how_it_ended(code)}) {lost}")
            return
        try:
            follows = self.parent.after_death(self)  # type: ignore[attr-defined]
            warn(f"{self.name} ended ({how_it_ended(code)}) after {lived:.1f} s; {follows}")
        finally:  # whatever that lacks (memory), another has to take its place
            self.parent.interrupt_children.append(self.idx)
            self.parent.main_loop_interrupt.set()

    def report_if_late(self, start_deadline: int) -> None:
        """Report, once, that its startup has not ended in `start_deadline` seconds: nothing ends it, or serves for it."""
        if not self.is_late and self.is_alive() and time.monotonic() > self.birth + start_deadline:
            self.is_late = True
            warn(
                f"{self.name} has not started within start_deadline={start_deadline} s, and gets no clients while others"
                f" serve; have its application's startup end"
            )

    def end_if_deaf(self) -> None:
        """End it, so that another takes its place, if its startup has been over for DEAF looks, and it does not accept.

        Granian (2.8.7) gives up without an end if the last of its threads cannot be started: it waits for the others with
        the GIL taken, which they wait for (docs/upstream.md, K).
        """
        self.deaf += 1
        if self.deaf == DEAF:
            warn(
                f"{self.name} does not accept, though its startup is over, and is killed; if that comes again, raise the"
                f" limit on processes (ulimit -u)"
            )
            self._signal(signal.SIGKILL)

    def await_end(self) -> None:
        """Wait until it has ended, and that has been logged: nothing else waits for this process's threads at its end."""
        while self.is_alive():
            self.inner.join(PATIENCE)
        if self.noted is not None:
            self.noted.wait(NOTED)

    def _exitcode(self) -> int:
        """Return the exit status of what has ended: None for a moment if another thread has reaped it just now."""
        end = time.monotonic() + NOTED
        while (code := self.inner.exitcode) is None and time.monotonic() < end:
            time.sleep(0.001)
        return code or 0

    def terminate(self) -> None:
        """Drain it. Workers do not heed SIGTERM, which a service manager may send to all processes at once.

        One that is being replaced first waits until the other has started: nobody else may accept meanwhile. If that
        does not start, this one serves on.
        """
        if self not in self.parent.wrks and self.is_alive():
            self.parent.await_start(self.idx)  # type: ignore[attr-defined]
            self.is_kept = self.parent.keep(self)  # type: ignore[attr-defined]
            if self.is_kept:
                return
        self.interrupt_by_parent = True
        self._signal(DRAIN)

    def kill(self) -> None:
        """End it at once."""
        self.interrupt_by_parent = self.is_killed = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._runs():
            with suppress(ProcessLookupError):  # its watching thread has reaped it meanwhile
                os.kill(self.inner.pid, number)

    def is_alive(self) -> bool:
        """Return whether it runs, and is not kept; one that could not be started does not."""
        return self._runs() and not self.is_kept

    def _runs(self) -> bool:
        return self.inner.pid is not None and bool(self.inner.is_alive())

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, and until it is reaped: Granian would report a worker that is not as refusing to stop."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.is_alive() and (end is None or time.monotonic() < end):
            if self.parent.interrupt_signal and self not in self.parent.wrks:
                self.parent.leaving.append(self)  # type: ignore[attr-defined]
                return
            self.inner.join(PATIENCE if end is None else min(PATIENCE, max(0.0, end - time.monotonic())))

"""Granian's server and worker, changed by overriding private names.

These are all that is used, but for those of app/launcher/granian_worker.py, granian_metrics.py and pair_trial.py.
Modules, classes and methods are checked when this module is imported, the server's state when it is made, and the rest
by tests/launcher/test_granian_contract.py alone, which tries each:

- `granian._granian.SocketHolder(descriptor, is_unix, backlog)`: a socket that is there already.
- `granian.server.common.AbstractServer._init_shared_socket`: overridden, as it would bind the port itself.
- `._spawn_worker(idx, ...)`: overridden, to give a worker its own socket.
- `._respawn_workers(workers, ..., delay)`: overridden, as it takes a second death for a crash loop.
- `._drop_shared_socket()`, `._stop_workers()`: overridden, to close the sockets, and to wait for all workers.
- `._watch_workers_rss()`, `._handle_rss_signal(...)`: overridden: no thread for each look; growth counts from the startup.
- `._ssp`, `._shd`, `._sso`: the three places in which a worker looks for its socket.
- `.wrks` with `.birth`, `.interrupt_children`, `.respawned_wrks`, `.workers_rss`, `.rss_signal`,
  `.main_loop_interrupt` (replaced; set, cleared and waited for), `.workers_kill_timeout`, `.interrupt_signal`, `.signal_handler_interrupt`: its state.
- `granian.server.mp._future_watcher_wrapper(inner)` makes a request's coroutine of its watcher (`scope`, `proto`, `done`,
  `err`, `taskref`), `granian.server.mp._new_cbscheduler(loop, call, ...)` a `granian._futures._CBSchedulerAIO`, whose `_schedule_fn`
  gets the watcher, in the context `_ctx`: both are replaced by app/launcher/scheduling.py. What Granian receives and
  sends is awaited as a type of `granian._granian`; its `add_done_callback` uses the loop's `call_soon_threadsafe`.
- `granian.server.common.configure_logging(...)`, and that of `granian.server.mp`: replaced by log.py, as they close handlers.
- `granian._signals.set_loop_signals(loop)` registers handlers of that module for SIGTERM and SIGINT, and for nothing
  else: by the module worker_loop.py tells them from an application's; what a worker's end calls on its loop by `granian.server.mp`.
- A worker runs its loop for the application's startup, and again when it has all of its threads, and accepts.
- A path whose `resolve()` returns itself reaches rustls as it is (`SealedFile`).
"""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any

import granian
from granian import Granian, _futures, _granian, _signals
from granian.server import common, mp

from app.launcher import log, memory, scheduling
from app.launcher.child import STARTUP_FAILED
from app.launcher.granian_metrics import Exporting
from app.launcher.granian_worker import NeverRespawned, Worker
from app.launcher.interrupt import Interrupt
from app.launcher.log import event, warn
from app.launcher.sockets import close
from app.launcher.startups import Startups

GROWTH_INTERVAL = 2  # seconds between looks at the workers
RETRY = 60  # seconds until a worker is replaced whose replacement has not started
METHODS = "_init_shared_socket _respawn_workers _spawn_worker _drop_shared_socket _start_ipc _start_metrics _stop_metrics _watch_workers_rss _handle_rss_signal _stop_workers signal_handler_interrupt"
STATE = "_metrics _metrics_exporter metrics_enabled wrks interrupt_children respawned_wrks workers_rss rss_signal main_loop_interrupt workers_kill_timeout interrupt_signal _ssp _shd"
FAILED_STARTS = 4  # in a row of a worker; one more is a crash loop
YOUNG, DOUBLINGS = 1.5, 5  # seconds that a worker lives whose replacement needs no pause; how often the pause doubles


def lacking(name: str) -> str:
    """Return the error for a private name that this Granian does not have."""
    return f"granian {granian.__version__} lacks {name}; install what requirements.txt pins, or see CONTRIBUTING.md, Raising Granian's pin"


def check_granian() -> None:
    """Raise RuntimeError if this Granian lacks a private name that is used here."""
    for owner, names in (
        (_granian, "SocketHolder WorkerSignal ASGIWorker IPCReceiverHandle"),
        (_futures, "_CBSchedulerAIO"),
        (_signals, "set_loop_signals"),
        (common, "configure_logging"),
        (mp, "_new_cbscheduler _future_watcher_wrapper configure_logging"),
        (Granian, METHODS),
        (mp.WorkerProcess, "start _watch _watcher terminate"),
    ):
        for name in names.split():
            if not hasattr(owner, name):
                raise RuntimeError(lacking(f"{owner.__name__}.{name}"))


check_granian()
common.configure_logging = mp.configure_logging = log.set_up_granian  # type: ignore[assignment, attr-defined]


def schedule_by(how: Callable[[asyncio.AbstractEventLoop, Context, scheduling.Call], scheduling.Schedule]) -> None:
    """Have the workers of this process run requests in that way."""

    class Scheduler(_futures._CBSchedulerAIO):  # noqa: SLF001
        def __init__(self, loop: asyncio.AbstractEventLoop, call: scheduling.Call, *_: object) -> None:
            self._schedule_fn = how(loop, self._ctx, call)

    mp._future_watcher_wrapper = scheduling.watched  # type: ignore[attr-defined]  # noqa: SLF001
    mp._new_cbscheduler = lambda loop, call, **_: Scheduler(loop, call, None, None, None)  # type: ignore[attr-defined]  # noqa: SLF001


class Server(Exporting):
    """Granian on sockets that were bound before it: connections wait in them while a worker is replaced."""

    sockets: Sequence[socket.socket]
    startups: Startups
    growth: int  # MiB that a worker may grow by
    start_deadline: int  # seconds
    no_growth_until = 0.0  # when workers that have grown are looked for again (time.monotonic())
    former: Worker | None = None  # what is being replaced, or was replaced and has not ended yet

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Granian's
        super().__init__(*args, **kwargs)
        for name in STATE.split():
            if not hasattr(self, name):
                raise RuntimeError(lacking(f"{Granian.__name__}.{name}"))
        self.young_deaths: dict[int, int] = {}  # in a row of each worker
        self.failed_starts: dict[int, int] = {}
        self.replaced: set[int] = set()
        self.leaving: list[Worker] = []  # being replaced when told to drain; `_stop_workers` joins them
        self.respawned_wrks = NeverRespawned()
        self.main_loop_interrupt = Interrupt(lambda: setattr(self, "rss_signal", True))  # `drain` sets it

    def _init_shared_socket(self) -> None:
        self._ssp = self._shd = self._sso = None

    def _watch_workers_rss(self) -> None:
        self.main_loop_interrupt.timeout = GROWTH_INTERVAL

    def await_start(self, idx: int) -> None:
        """Wait until a worker accepts, for `start_deadline` at most.

        It is waited for no more if any worker has died, which nobody replaces meanwhile, or the server is to stop.
        """
        end = time.monotonic() + self.start_deadline
        while not (self._accepts(idx) or self.interrupt_signal or time.monotonic() > end):
            if not all(worker.is_alive() for worker in self.wrks):
                return
            time.sleep(0.02)

    def _accepts(self, idx: int) -> bool:
        return self.startups.accepts(idx, self.wrks[idx].inner.pid)

    def keep(self, former: Worker) -> bool:
        """Put back a worker that was to be replaced if the other has not started; return whether it was put back."""
        if self.interrupt_signal or self._accepts(former.idx) or not former.is_alive():
            return False
        self.wrks[former.idx].kill()
        self.wrks[former.idx] = former
        self.startups.restore(former.idx, self.size_of_former, former.inner.pid or 0)
        self.no_growth_until = time.monotonic() + RETRY
        return True

    def _handle_rss_signal(self, *args: Any) -> None:  # noqa: ANN401
        """Replace the workers that have grown by more than `growth` since their startup: an import is no growth."""
        for worker in self.wrks:
            if not isinstance(worker, Worker):
                continue
            if not self.startups.size(worker.idx):
                worker.report_if_late(self.start_deadline)
            elif not self._accepts(worker.idx):
                worker.end_if_deaf()
        grown = []
        for idx, worker in enumerate(self.wrks if time.monotonic() > self.no_growth_until else ()):
            with suppress(OSError):  # it has ended
                size = self.startups.size(idx)
                if size and memory.resident(worker.inner.pid) > size + self.growth * 2**20:
                    grown.append(idx)
        if grown:
            self._respawn_workers(grown, *args, delay=self.respawn_interval)
            self._metrics.incr_respawn_rss(len(grown))

    def _spawn_worker(self, idx: int, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self.spawning = idx
        accepts = self.former is not None and self.former.idx == idx and self.former.is_alive()
        self.size_of_former = self.startups.begin(idx, accepts=accepts)
        self._shd = _granian.SocketHolder(self.sockets[idx].fileno(), False, self.backlog)  # type: ignore[call-arg, assignment]  # noqa: FBT003
        worker = super()._spawn_worker(idx, *args, **kwargs)
        if isinstance(worker, mp.WorkerProcess):  # a free-threaded Python's workers are threads of this process
            worker.__class__ = Worker
        return worker

    def _drop_shared_socket(self) -> None:
        close(self.sockets)  # so that the port closes when the workers stop

    def _stop_workers(self) -> None:
        workers = [*self.wrks, *self.leaving]
        super()._stop_workers()
        for worker in workers:
            worker.await_end()

    def drain(self, *_: object) -> None:
        """Stop accepting, let the workers finish what they have received, end; the launcher has the deadline."""
        self.workers_kill_timeout = None
        for worker in list(self.wrks):  # at once, even if the server is replacing one of them
            worker.terminate()
        self.signal_handler_interrupt()

    def _respawn_workers(self, workers: Sequence[int], *args: Any, delay: float = 0.0) -> None:  # noqa: ANN401
        """Replace workers; one that has started and died is no crash loop, however often and soon that happens.

        Granian takes a second death within 5.5 s for one: clients who make workers die could end the service. Here it
        takes more than FAILED_STARTS of a worker in a row, each ended before its startup was over. What dies young is
        replaced after a pause. If an application reports a failed startup in a worker that replaces none, the server
        ends; in one that does, it is tried until it succeeds.
        """
        if not delay:  # they have died; one that was being replaced for its size has been replaced by now
            # All that are dead: Granian forgets one that is reported between its look at the list and its clearing it.
            workers = [idx for idx, worker in enumerate(self.wrks) if not worker.is_alive()]
            if not workers:
                return
            if self._is_hopeless(workers):
                self.interrupt_children.extend(workers)  # so that the exit status is 1
                self.signal_handler_interrupt()
                return
            deaths = min(max(self.young_deaths[idx] for idx in workers), DOUBLINGS)
            self._pause(min(2.0, 0.1 * 2**deaths) if deaths else 0.0)
        self.replaced.update(workers)
        for idx in workers:
            if not self.interrupt_signal:  # else a stop would wait for `delay` after each
                self.former = former = self.wrks[idx]
                if delay:
                    warn(f"{former.name} has grown by more than worker_growth={self.growth} MiB; it is replaced")
                super()._respawn_workers([idx], *args, delay=delay)
                if former is self.wrks[idx]:
                    former.is_kept, self.former = False, None
                    warn(f"{former.name} serves on: what was to replace it has not started; it is tried again")
                    continue
                event(f"{self.wrks[idx].name} was started in place of pid {former.inner.pid}")
                if not former.is_alive():  # else a worker that is forked later closes what it has of it
                    self.former = None

    def _is_hopeless(self, workers: Sequence[int]) -> bool:
        for idx in workers:
            worker = self.wrks[idx]
            lived = (getattr(worker, "death", None) or time.monotonic()) - worker.birth  # free-threaded: not known
            has_started = self.startups.size(idx) > 0
            self.young_deaths[idx] = 0 if has_started and lived >= YOUNG else self.young_deaths.get(idx, 0) + 1
            self.failed_starts[idx] = 0 if has_started else self.failed_starts.get(idx, 0) + 1
            if worker.inner.exitcode == STARTUP_FAILED:
                if idx not in self.replaced:
                    return True
                self.failed_starts[idx] = 0
            if self.failed_starts[idx] > FAILED_STARTS:
                return True
        return False

    def after_death(self, worker: Worker) -> str:
        """Return what follows on a worker's death, before `_is_hopeless` comes to it."""
        if self.interrupt_signal:
            return "the server process is stopping"
        if worker.inner.exitcode == STARTUP_FAILED:
            return "another is tried" if worker.idx in self.replaced else "the listener ends"
        starts = 0 if self.startups.size(worker.idx) else self.failed_starts.get(worker.idx, 0) + 1
        if starts > FAILED_STARTS:
            return f"the listener ends, as it was the {starts}th in a row before its startup was over: a crash loop"
        return "another takes its place"

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.interrupt_signal:
            time.sleep(0.02)

"""Granian's private names that the launcher relies on: each exists, and does what app/launcher/granian_private.py says."""
# ruff: noqa: SLF001 - they are private

import asyncio
import mmap
import os
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from contextvars import Context
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import granian
import pytest
import uvloop
from granian import Granian, _futures, _granian, _signals
from granian.constants import Interfaces
from granian.server import common, mp

from app.launcher import granian_metrics, granian_private, granian_worker
from app.launcher.child import IMPORT_FAILED
from app.launcher.descriptors import open_descriptors, pipes_opened_since
from app.launcher.granian_private import Server, check_granian, schedule_by
from app.launcher.granian_worker import DEAF, Worker
from app.launcher.scheduling import Call, Schedule, watched
from app.launcher.startups import Startups
from app.launcher.worker_loop import GRANIANS, GRANIANS_WORKER
from app.settings.sealed_file import SealedFile
from tests.support.ports import free_port

Trace = Any  # a tracing function returns itself
OVERRIDDEN = (
    "_init_shared_socket",
    "_spawn_worker",
    "_drop_shared_socket",
    "_start_ipc",
    "_watch_workers_rss",
    "_handle_rss_signal",
)
OF_METRICS = ("_start_metrics", "_stop_metrics")


@pytest.fixture
def made() -> Iterator[Server]:
    """A server of one worker, with the socket that this has."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = Server("app:app", interface=Interfaces.ASGINL, workers=1, port=free_port())
        server.sockets = [listening]
        server.startups = Startups(1)
        yield server


def test_every_name_of_the_docstring_exists(made: Server) -> None:
    made._init_shared_socket()
    made._start_ipc()
    documented = f"{granian_private.__doc__}{granian_worker.__doc__}{granian_metrics.__doc__}"
    names = re.findall(r"`\.([a-z_]+)", documented)
    assert {"_watch", "_watcher", "inner", "birth"} <= set(names)
    assert {"_spawn_worker", "_sso", "wrks", "rss_signal", "signal_handler_interrupt"} <= set(names)
    worker = mp.WorkerProcess(made, 0, None, ())  # type: ignore[no-untyped-call]
    for name in names:
        owners = (made, worker, _granian.IPCReceiverHandle)
        assert any(hasattr(each, name) for each in owners), name
    for name in (*OVERRIDDEN, *OF_METRICS):
        assert getattr(Server, name) is not getattr(Granian, name)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (_granian, "SocketHolder"),
        (_granian, "WorkerSignal"),
        (_granian, "ASGIWorker"),
        (_futures, "_CBSchedulerAIO"),
        (_signals, "set_loop_signals"),
        (mp, "_new_cbscheduler"),
        (mp, "_future_watcher_wrapper"),
        (common, "configure_logging"),
        (_granian, "IPCReceiverHandle"),
        *((Granian, name) for name in (*OVERRIDDEN, *OF_METRICS, "_stop_workers", "signal_handler_interrupt")),
        *((mp.WorkerProcess, name) for name in ("start", "_watch", "terminate")),
    ],
)
def test_a_name_that_is_missing_is_reported(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:  # noqa: ANN401
    check_granian()
    for each in getattr(owner, "__mro__", [owner]):
        if name in vars(each):
            monkeypatch.delattr(each, name)
    with pytest.raises(
        RuntimeError, match=rf"granian {granian.__version__} lacks [\w.]+\.{name}; install what requirements.txt pins"
    ):
        check_granian()


def test_what_a_fork_opens_is_told_from_what_others_open() -> None:
    """They accept connections meanwhile, and close them, and a preloaded application opens a file at a fork that fails."""
    before = open_descriptors()
    with socket.socket(), closing(select.epoll()), Path(os.devnull).open():
        pipe = os.pipe()
        try:
            assert pipes_opened_since(before) == sorted(pipe)
        finally:
            for each in pipe:
                os.close(each)


def test_what_a_fork_leaves_open_is_found_behind_what_it_has_closed() -> None:
    """It opens two pipes, and closes one end of each: the last is no more the lowest free number."""
    with ExitStack() as stack:

        def until_end(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        while until_end(os.dup(0)) < max(open_descriptors()):  # until no number is free between others
            pass
        before = open_descriptors()
        (ended, its_sentinel), (its_data, data) = os.pipe(), os.pipe()
        os.close(its_sentinel)
        os.close(its_data)
        assert pipes_opened_since(before) == sorted(map(until_end, (ended, data)))


def test_granian_registers_two_signals_of_a_workers_loop_by_handlers_of_one_module() -> None:
    registered: dict[int, str] = {}

    class Loop:
        def add_signal_handler(self, number: int, callback: Callable[..., None], *_: object) -> None:
            registered[number] = callback.__module__

    _signals.set_loop_signals(Loop())  # type: ignore[no-untyped-call]
    assert registered == {signal.SIGTERM: GRANIANS, signal.SIGINT: GRANIANS}
    assert mp.__name__ == GRANIANS_WORKER  # test_leaving_clients.py shows that its last call comes from there


def test_a_socket_holder_holds_a_socket_that_is_there_already(made: Server) -> None:
    holder = _granian.SocketHolder(made.sockets[0].fileno(), False, 7)  # type: ignore[call-arg]  # noqa: FBT003
    assert holder.get_fd() == made.sockets[0].fileno()
    assert not holder.is_uds()


def test_a_server_starts_and_stops_by_the_overridden_methods(made: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: sockets, pipes, the hook, workers; the size is looked at last, and sockets close first."""
    called: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_, **__: called.append(name)

    for name in (*OVERRIDDEN[:1], *OVERRIDDEN[2:], "_spawn_workers", "_stop_workers"):
        monkeypatch.setattr(made, name, note(name))
    monkeypatch.setattr(common, "set_main_signals", note("signals"))

    def hook() -> None:
        called.append("hook")
        made.workers_rss = 1  # as the launcher does

    made.on_startup(hook)
    made.startup(None, None)
    assert called == ["signals", "_init_shared_socket", "_start_ipc", "hook", "_spawn_workers", "_watch_workers_rss"]
    called.clear()
    made._ipc_sig = _granian.WorkerSignal()
    made.shutdown()
    assert called == ["_drop_shared_socket", "_stop_workers"]


def test_a_worker_gets_its_own_socket_and_is_one_of_ours(made: Server) -> None:
    made._init_shared_socket()
    made._start_ipc()
    worker = made._spawn_worker(0, lambda: None, lambda: None)
    assert type(worker) is Worker
    assert not worker.is_alive()
    assert made.spawning == 0
    (holder,) = [
        each[0][1] for each in worker.inner._args if isinstance(each, tuple) and each[:1] == ((None, made._shd),)
    ]
    assert holder.get_fd() == made.sockets[0].fileno()
    made._drop_shared_socket()
    assert made.sockets[0].fileno() == -1


def test_the_main_loop_ends_by_the_interrupt(made: Server) -> None:
    thread = threading.Thread(target=made._serve_loop, args=(None, None), daemon=True)
    thread.start()
    made.workers_kill_timeout = 3  # type: ignore[assignment]
    made.drain()
    thread.join(5)
    assert not thread.is_alive()
    assert made.workers_kill_timeout is None


def drained_at_line(made: Server, number: int) -> bool:
    """Wait for the main loop's event in a thread, in which DRAIN's handler runs before the line of that number.

    Return whether so many lines run before it waits.
    """
    made.main_loop_interrupt.clear()
    lines = iter(range(1000))
    reached, ended = threading.Event(), threading.Event()

    def trace(_frame: FrameType, event: str, _argument: object) -> Trace:
        if event == "line" and next(lines) == number:
            sys.settrace(None)
            reached.set()
            made.drain()
        return trace

    def wait() -> None:
        sys.settrace(trace)
        made.main_loop_interrupt.wait()
        sys.settrace(None)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    if not reached.wait(0.3):
        made.main_loop_interrupt.set()
    assert ended.wait(2), f"waits for ever if the signal comes at line {number}"
    return reached.is_set()


def test_the_signal_to_drain_may_come_at_any_line_of_a_wait_for_the_main_loops_event(made: Server) -> None:
    """Its handler runs in the thread that waits."""
    number = 0
    while drained_at_line(made, number):
        number += 1
    assert number > 0


def test_a_stop_waits_for_a_worker_that_was_being_replaced(made: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has been told to drain, and has requests under way."""
    made._init_shared_socket()
    made._start_ipc()
    worker = made._spawn_worker(0, lambda: None, lambda: None)
    left = iter([True] * 5)
    monkeypatch.setattr(Worker, "is_alive", lambda _: next(left, False))
    monkeypatch.setattr(worker, "inner", SimpleNamespace(join=lambda _: None, pid=None))
    made.drain()
    worker.join()  # Granian's, in the replacement
    assert next(left, None) is not None
    made._stop_workers()
    assert next(left, None) is None


def test_no_more_workers_are_replaced_once_the_server_drains(made: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[int] = []

    def replace(server: Server, workers: list[int], *_: object, delay: float) -> None:
        assert delay == 1.0
        replaced.extend(workers)
        if len(replaced) == 2:
            server.drain()

    monkeypatch.setattr(Granian, "_respawn_workers", replace)
    made.growth = 512
    inner = SimpleNamespace(exitcode=None, pid=7)
    made.wrks = [
        SimpleNamespace(inner=inner, name="worker-1 (pid 7)", terminate=lambda: None, is_alive=lambda: True)
    ] * 4
    made._respawn_workers([0, 1, 2, 3], delay=1.0)
    assert replaced == [0, 1]


def test_a_fork_that_fails_with_the_last_descriptor_leaves_none(made: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    made._init_shared_socket()
    made._start_ipc()
    worker = made._spawn_worker(0, lambda: None, lambda: None)

    def start() -> None:
        while True:  # until there is no descriptor
            os.pipe()

    monkeypatch.setattr(worker, "inner", SimpleNamespace(start=start, pid=None))
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before) + 6, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            worker._fork()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_descriptors() == before


def test_the_size_of_workers_is_looked_at_by_the_main_loop_alone(made: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = threading.Semaphore(0)
    monkeypatch.setattr(granian_private, "GROWTH_INTERVAL", 0.01)
    monkeypatch.setattr(made, "_handle_rss_signal", lambda *_: looks.release())
    threads = threading.active_count()
    made._watch_workers_rss()
    assert threading.active_count() == threads
    thread = threading.Thread(target=made._serve_loop, args=(None, None), daemon=True)
    thread.start()
    assert all(looks.acquire(timeout=5) for _ in range(3))
    made.drain()
    thread.join(5)
    assert not thread.is_alive()


def test_a_worker_grows_from_its_size_after_its_startup(made: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it imports is no growth: a large application would be replaced for ever."""
    replaced: list[int] = []
    monkeypatch.setattr(made, "_respawn_workers", lambda workers, *_, **__: replaced.extend(workers))
    made.growth = 16
    made.wrks = [SimpleNamespace(inner=SimpleNamespace(pid=os.getpid()))]
    made._handle_rss_signal(None, None)  # it has not started
    made.startups.note(0)
    made._handle_rss_signal(None, None)
    assert replaced == []
    with mmap.mmap(-1, 17 * 2**20) as more:
        more.write(b"x" * len(more))
        made._handle_rss_signal(None, None)
    assert replaced == [0]


@pytest.mark.parametrize("what", ["starts", "ends", "is not needed"])
def test_a_worker_that_is_replaced_waits_for_the_others_startup(
    made: Server, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    alive = [True]
    made.start_deadline = 30
    killed: list[bool] = []
    this = SimpleNamespace(pid=os.getpid())
    made.wrks = [SimpleNamespace(is_alive=lambda: alive[0], kill=lambda: killed.append(True), inner=this)]
    made.size_of_former = 7
    before = Worker.__new__(Worker)
    before.parent, before.idx = made, 0
    untyped: Any = before
    untyped.inner = this
    monkeypatch.setattr(Worker, "is_alive", lambda _: True)
    monkeypatch.setattr(Worker, "_signal", lambda *_: None)
    thread = threading.Thread(target=before.terminate)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    if what == "starts":
        made.startups.note_service(0)
    elif what == "ends":
        alive[0] = False
    else:
        made.interrupt_signal = True
    thread.join(5)
    assert not thread.is_alive()
    assert (made.wrks == [before], before.is_kept, killed == [True]) == 3 * (what == "ends",)
    assert made.startups.serving() == ([] if what == "is not needed" else [0])


def test_a_worker_that_does_not_come_to_accept_is_killed(made: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Granian waits for its own threads for ever, with the GIL taken, if it cannot start the last of them."""
    signals: list[int] = []
    worker = Worker.__new__(Worker)
    worker.parent, worker.idx = made, 0
    untyped: Any = worker
    untyped.inner = SimpleNamespace(pid=os.getpid())
    monkeypatch.setattr(Worker, "is_alive", lambda _: True)
    monkeypatch.setattr(Worker, "report_if_late", lambda *_: None)
    monkeypatch.setattr(Worker, "_signal", lambda _, number: signals.append(number))
    made.wrks, made.growth, made.start_deadline = [worker], 512, 30

    def look() -> list[int]:
        made._handle_rss_signal(None, None)
        return signals

    assert not any(look() for _ in range(9))  # its application's startup may take long
    made.startups.note(0)
    assert not any(look() for _ in range(DEAF - 1))
    assert look() == [signal.SIGKILL]
    made.startups.note_service(0)
    worker.deaf = 0
    assert not any(look()[1:] for _ in range(9))


def test_a_request_is_scheduled_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_new_cbscheduler", "_future_watcher_wrapper"):
        monkeypatch.setattr(mp, name, None)  # put back afterwards
    received: list[object] = []

    def how(loop: asyncio.AbstractEventLoop, context: Context, call: Call) -> Schedule:
        assert isinstance(context, Context)
        received.extend([loop, call])
        return received.append

    async def call(_: object) -> None:
        return

    schedule_by(how)
    with closing(uvloop.Loop()) as loop:
        build: Callable[..., object] = vars(mp)["_new_cbscheduler"]
        scheduler = build(loop, call, impl_asyncio=True)
        assert isinstance(scheduler, _granian.CallbackScheduler)
        assert received == [loop, call]
    assert vars(mp)["_future_watcher_wrapper"] is watched


def test_a_sealed_files_path_reaches_rustls_as_it_is(pair: dict[str, str]) -> None:
    with open(pair["TLS_CERT"], "rb") as chain, open(pair["TLS_KEY"], "rb") as key:  # noqa: PTH123
        files = [SealedFile.of(each.read()) for each in (chain, key)]
    with closing(files[0]), closing(files[1]):
        server = Server("app:app", interface=Interfaces.ASGINL, ssl_cert=files[0], ssl_key=files[1], port=free_port())
        assert server.ssl_ctx[1:3] == tuple(map(str, files))
        assert all(re.fullmatch(r"/proc/self/fd/\d+", path) for path in map(str, files))


def test_imports_that_fail_are_a_crash_loop_however_long_they_take(made: Server) -> None:
    dead: Any = SimpleNamespace(birth=time.monotonic() - 9, inner=SimpleNamespace(exitcode=IMPORT_FAILED), idx=0)
    made.wrks = [dead]
    for number in range(1, 6):
        last = number == 5
        assert made.after_death(dead).startswith("the listener ends" if last else "another takes its place")
        assert made._is_hopeless([0]) == last
    made.startups.note(0)  # it has served: what status it ends with is the application's affair
    assert made.after_death(dead) == "another takes its place"
    dead.birth = time.monotonic()
    assert not any(made._is_hopeless([0]) for _ in range(2000))  # however young it dies: clients may have their part


def test_a_worker_that_dies_while_it_is_replaced_does_not_cost_its_replacement(
    made: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[int] = []
    monkeypatch.setattr(Granian, "_respawn_workers", lambda _, workers, *__, **___: replaced.extend(workers))
    dead = SimpleNamespace(
        is_alive=lambda: False, birth=time.monotonic() - 9, inner=SimpleNamespace(exitcode=-9, pid=7), name="worker-2"
    )
    made.startups = Startups(2)
    made.wrks = [SimpleNamespace(is_alive=lambda: True)]
    made._respawn_workers([0])
    assert replaced == []
    made.wrks.append(dead)
    made._respawn_workers([0])  # Granian has forgotten the other
    assert replaced == [1]


def test_a_death_soon_after_the_machines_boot_is_no_crash_loop(made: Server) -> None:
    """Granian takes one within 5.5 s of the last replacement for a crash loop, which counts as at 0 if there was none."""
    assert all(0.0 - made.respawned_wrks.get(idx, 0) > 5.5 for idx in range(2))
    made.respawned_wrks[0] = 0.0
    assert 0.0 - made.respawned_wrks.get(0, 0) > 5.5

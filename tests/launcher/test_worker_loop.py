"""The event loop of a worker: it drains whenever it is told to, and goes on with requests in the thread that has them."""

import asyncio
import contextvars
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.launcher.draining import DRAIN
from app.launcher.scheduling import Waiting
from app.launcher.worker_loop import GRANIANS, InlineWorkerLoop, WorkerLoop

DEADLINE = 5.0


@pytest.fixture
def before_drain() -> list[str]:
    """What was done before Granian's handler."""
    return []


@pytest.fixture
def loop(before_drain: list[str]) -> Iterator[InlineWorkerLoop]:
    """A worker's loop, and the process's handler and mask of DRAIN put back."""

    async def note() -> None:
        before_drain.append("before")

    former, mask = signal.getsignal(DRAIN), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with closing(InlineWorkerLoop.builder(note)()) as made:
        assert isinstance(made, InlineWorkerLoop)
        yield made
    signal.signal(DRAIN, former)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    asyncio.set_event_loop(None)


def drained(loop: WorkerLoop) -> asyncio.Event:
    """Have the loop take DRAIN; return what is set then."""
    event = asyncio.Event()

    def handler(number: int, _: None) -> None:
        assert number == signal.SIGTERM, "SIGINT is ignored"
        event.set()

    handler.__module__ = GRANIANS
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, handler, number, None)
    return event


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_an_applications_handlers_are_its_own(
    loop: InlineWorkerLoop, before_drain: list[str], number: signal.Signals
) -> None:
    received = asyncio.Event()
    former = signal.signal(number, lambda *_: None)
    unheeded = signal.getsignal(number)
    event = drained(loop)
    loop.add_signal_handler(number, received.set)
    loop.call_later(0.01, os.kill, os.getpid(), number)
    loop.run_until_complete(asyncio.wait_for(received.wait(), DEADLINE))
    assert before_drain == []
    os.kill(os.getpid(), DRAIN)
    loop.run_until_complete(asyncio.wait_for(event.wait(), DEADLINE))
    loop.remove_signal_handler(number)
    assert signal.getsignal(number) is unheeded
    signal.signal(number, former)


def test_it_drains_when_told_to_while_it_runs(loop: InlineWorkerLoop, before_drain: list[str]) -> None:
    event = drained(loop)
    loop.call_later(0.01, os.kill, os.getpid(), DRAIN)
    loop.run_until_complete(asyncio.wait_for(event.wait(), DEADLINE))
    assert before_drain == ["before"]


def test_it_drains_when_told_to_while_it_does_not_run(loop: InlineWorkerLoop, before_drain: list[str]) -> None:
    """Between two runs, as Granian's: the application's startup, and the service."""
    event = drained(loop)
    loop.run_until_complete(asyncio.sleep(0))
    os.kill(os.getpid(), DRAIN)
    assert not event.is_set()
    loop.run_until_complete(asyncio.wait_for(event.wait(), DEADLINE))
    assert before_drain == ["before"]


def test_it_drains_when_told_to_before_it_takes_the_signal(loop: InlineWorkerLoop) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {DRAIN})
    signal.pthread_kill(threading.get_ident(), DRAIN)  # this thread alone blocks it
    event = drained(loop)
    loop.run_until_complete(asyncio.wait_for(event.wait(), DEADLINE))


def test_it_drains_once(loop: InlineWorkerLoop, before_drain: list[str]) -> None:
    event = drained(loop)
    for _ in range(3):
        os.kill(os.getpid(), DRAIN)
        loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.wait_for(event.wait(), DEADLINE))
    assert before_drain == ["before"]


def test_a_waiting_request_goes_on_in_the_thread_that_has_what_it_waits_for(loop: InlineWorkerLoop) -> None:
    threads: list[threading.Thread] = []

    async def request() -> None:
        threads.append(threading.current_thread())

    waiting = Waiting(loop, request(), None, contextvars.copy_context())
    other = threading.Thread(target=lambda: loop.call_soon_threadsafe(waiting, None))
    other.start()
    other.join()
    assert threads == [other]


def test_anything_else_is_the_loops_threads(loop: InlineWorkerLoop) -> None:
    threads: list[threading.Thread] = []
    other = threading.Thread(
        target=lambda: loop.call_soon_threadsafe(lambda: threads.append(threading.current_thread()))
    )
    other.start()
    other.join()
    assert threads == []
    loop.run_until_complete(asyncio.sleep(0.001))
    assert threads == [threading.main_thread()]

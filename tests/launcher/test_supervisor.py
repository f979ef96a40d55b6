"""The loop of app/launcher/supervisor.py with listeners that are only said to be there, and what can leave it."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from app.launcher import memory, signals, supervisor
from app.launcher.child import FAILED, STOPPED
from app.launcher.reloading import Reloaded
from app.launcher.server_process import Endpoint, ListenerError, State, Work
from app.launcher.sockets import ReuseportGroup
from app.launcher.supervisor import Supervisor
from app.settings import config, start
from app.settings.config import Configuration
from app.settings.errors import ConfigurationError

Act = Callable[[], None]


class Process:
    def __init__(self, state: State = State.SERVING, end: str | None = None) -> None:
        self.state = state
        self.end = end

    def ended(self) -> str | None:
        return self.end


class Told:
    """A listener that does, at each advance, what it is told next; a stop drains it by the advance after."""

    endpoint = SimpleNamespace(listener=SimpleNamespace(name="test"))
    watch = None

    def __init__(self, *acts: Act, processes: tuple[Process, ...] = ()) -> None:
        self.acts = list(acts)
        self.processes = list(processes)
        self.stopped = self.killed = self.holds_its_port = False

    def still_holds_its_port(self) -> bool:
        return self.holds_its_port

    @property
    def is_serving(self) -> bool:
        return any(each.state is State.SERVING for each in self.processes)

    def start(self) -> None:
        if self.acts:
            self.acts.pop(0)()
        self.processes = [Process()]

    def advance(self, _: float) -> None:
        if self.acts and self.processes:
            self.acts.pop(0)()
        elif self.stopped:
            self.processes.clear()

    def next_event(self) -> float:
        return 0.0

    def release(self, process: Process) -> None:
        self.processes = [each for each in self.processes if each is not process]

    def stop(self, _: float) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.killed = self.killed or bool(self.processes)
        self.processes.clear()


def failing(error: BaseException) -> Act:
    def act() -> None:
        raise error

    return act


@pytest.fixture
def supervise(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Supervisor]:
    monkeypatch.setattr(signals, "wait", lambda _: None)
    monkeypatch.setattr(supervisor, "reap_others", nothing)
    monkeypatch.setattr(supervisor, "warn", lambda *_: None)
    monkeypatch.setattr(supervisor, "Listing", lambda: SimpleNamespace(write=lambda _: None))

    def make(*listeners: Told, waiting: tuple[Told, ...] = ()) -> Supervisor:
        configuration: Any = SimpleNamespace(server=None, path=Path("server.toml"))
        made = Supervisor(
            configuration,
            [],
            Work(lambda *_: None, lambda _: None),
            lambda _: "/",
            lambda *_: Reloaded(configuration, [], [], ""),
        )
        untyped: Any = made
        untyped.listeners, untyped.waiting = [*listeners, *waiting], list(waiting)
        return made

    return make


def nothing() -> None:
    """Do nothing in an advance."""


def test_a_listener_that_has_ended_takes_no_other_ones_replacement_for_its_end(
    supervise: Callable[..., Supervisor],
) -> None:
    """A replacement that is being proved has no clients and is given up; what serves beside it is drained."""
    ended = Told(failing(ListenerError("json", "ended")), processes=(Process(end="ended"),))
    renewed = Told(nothing, processes=(serving := Process(), proving := Process(State.PROVING)))
    seen: list[list[Process]] = []
    renewed.acts = [nothing, lambda: seen.append(list(renewed.processes))]
    assert supervise(renewed, ended).run() == FAILED
    assert not renewed.killed
    assert seen == [[serving]]
    assert proving not in renewed.processes


class Panic(BaseException):
    """What a panic of a library in Rust is to Python: no Exception (pyo3's PanicException)."""


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(12, "Cannot allocate memory"), KeyError("x"), Panic()],
    ids=["memory", "system", "fault", "panic"],
)
def test_what_fails_in_the_loop_drains_all(supervise: Callable[..., Supervisor], error: BaseException) -> None:
    one, other = Told(failing(error), processes=(Process(),)), Told(processes=(Process(),))
    assert supervise(one, other).run() == FAILED
    assert (one.stopped, other.stopped) == (True, True)
    assert (one.killed, other.killed) == (False, False)


def test_what_fails_again_at_the_stop_kills_all(supervise: Callable[..., Supervisor]) -> None:
    one, other = Told(*[failing(MemoryError())] * 2, processes=(Process(),)), Told(processes=(Process(),))
    assert supervise(one, other).run() == FAILED
    assert (one.killed, other.killed) == (True, True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The supervisor's clock, which the test moves."""
    moved = SimpleNamespace(now=1000.0)
    moved.sleep = lambda seconds: setattr(moved, "now", moved.now + seconds)
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: moved.now, sleep=moved.sleep))
    return moved


def test_each_listener_is_told_the_time_after_what_took_long(
    supervise: Callable[..., Supervisor], clock: SimpleNamespace
) -> None:
    """Or the deadlines that it sets would be over at once."""
    slow, other = Told(lambda: setattr(clock, "now", 1012.0), processes=(Process(),)), Told(processes=(Process(),))
    seen: list[float] = []
    other.advance = seen.append  # type: ignore[method-assign, assignment]
    made = supervise(slow, other)
    made._advance()  # noqa: SLF001 - one turn of the loop
    assert seen == [1012.0]


@pytest.mark.parametrize(
    ("first", "second", "seconds", "killed"),
    [
        (signal.SIGTERM, signal.SIGTERM, 0.3, True),
        (signal.SIGHUP, signal.SIGINT, 0.3, True),
        (signal.SIGTERM, signal.SIGTERM, 0.1, False),
        (signal.SIGHUP, signal.SIGHUP, 0.3, False),
    ],
)
def test_a_second_signal_kills_unless_it_is_of_the_same_stop(
    supervise: Callable[..., Supervisor],
    clock: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    first: signal.Signals,
    second: signal.Signals,
    seconds: float,
    *,
    killed: bool,
) -> None:
    """A terminal that closes sends SIGHUP twice: from its shell, and from the kernel."""
    monkeypatch.setattr(signals, "STOP", signals.STOP | {signal.SIGHUP})
    one = Told(nothing, nothing, nothing, processes=(Process(),))
    made = supervise(one)
    made._take(first)  # noqa: SLF001
    clock.now += seconds
    made._take(second)  # noqa: SLF001
    assert (one.stopped, one.killed) == (True, killed)


def test_a_stop_waits_a_moment_for_ports_that_are_still_held(
    supervise: Callable[..., Supervisor], clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(supervisor, "warn", lambda line, *_: lines.append(line))
    one = Told(nothing, processes=(Process(),))
    one.holds_its_port = True
    made = supervise(one)
    made._take(signal.SIGTERM)  # noqa: SLF001
    assert made.run() == STOPPED
    assert clock.now == pytest.approx(1000.0 + supervisor.PORTS, abs=0.05)
    said = "what was killed, or what the application has started, still holds its port; end it before a start"
    assert lines == [f"listener test: {said}"]


def test_the_first_signal_after_a_failure_kills_nobody(
    supervise: Callable[..., Supervisor], clock: SimpleNamespace
) -> None:
    """Whoever asks to stop does not know that the others are drained already."""
    one = Told(nothing, nothing, nothing, processes=(Process(),))
    made = supervise(one)
    made._fail("another has ended")  # noqa: SLF001
    clock.now += 1
    made._take(signal.SIGTERM)  # noqa: SLF001
    assert (one.stopped, one.killed) == (True, False)
    clock.now += 1
    made._take(signal.SIGTERM)  # noqa: SLF001
    assert one.killed


def test_a_port_that_is_taken_since_drains_the_listeners_before_it(supervise: Callable[..., Supervisor]) -> None:
    first = Told(processes=(Process(),))
    second = Told(failing(ConfigurationError("TEST_PORT=1 cannot be bound")))
    with pytest.raises(ConfigurationError, match="TEST_PORT=1 cannot be bound"):
        supervise(first, waiting=(second,)).run()
    assert first.stopped
    assert not first.killed


def test_a_renewal_before_a_reload_is_through_says_how_many_workers_it_has(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the renewal was started with, not what server.toml has by now."""

    def read(workers: str) -> Configuration:
        return config.read(config.path_of(None, {}), {"SELF_SIGNED": "1", "WORKERS": workers})

    now, later = read("1"), read("3")
    application: Any = object()
    endpoint = Endpoint(
        now.server, now.listeners[-1], None, application, ReuseportGroup(now.server, now.listeners[-1]), ()
    )
    reloaded = Reloaded(later, [replace(endpoint, server=later.server)], [], "")
    made = Supervisor(now, [endpoint], Work(lambda *_: None, lambda _: None), lambda _: "/", lambda *_: reloaded)
    monkeypatch.setattr(supervisor, "set_up", lambda _: None)  # of this process, which other tests share
    monkeypatch.setattr(memory, "share", nothing)
    made.reloading.serve(reloaded)
    made.listeners[0].on_serving(endpoint, "renewed")
    made.close()
    (line,) = [each for each in capfd.readouterr().err.splitlines() if "renewed: json: http://" in each]
    assert line.endswith("no ALPN, 1 worker")


@pytest.fixture
def main() -> Iterator[Callable[[], int]]:
    """The command, which does not change this process's standard streams or signals."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with ExitStack() as stack:
        from app.__main__ import main  # noqa: PLC0415 - blocks signals when it is imported

        stack.enter_context(mock.patch.object(sys, "argv", ["app"]))
        stack.enter_context(mock.patch.object(start, "_taken", None))
        stack.enter_context(mock.patch.dict(os.environ, {"SELF_SIGNED": "1"}, clear=True))
        stack.enter_context(mock.patch("app.launcher.output.open_standard_streams"))
        stack.enter_context(mock.patch("app.launcher.log.set_up"))  # of this process, which other tests share
        yield main
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def test_a_want_of_memory_is_an_error_of_configuration_at_the_start_alone(main: Callable[[], int]) -> None:
    with mock.patch("app.run.preflight", side_effect=MemoryError):
        assert main() == 2
    with (
        mock.patch("app.run.preflight", return_value=(None, [])),
        mock.patch("app.run.serve", side_effect=MemoryError),
        pytest.raises(MemoryError),
    ):
        main()

"""Bursts that are warm: h2load's output and log, CPU time between samples, disturbed rounds."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from bench import noise, turns
from bench.generators import MeasurementError
from bench.noise import Used, Watch, parse_stat
from bench.plan import Plan
from bench.proc import cpu_time, wait_until
from bench.processes import Running, Sample
from bench.warm import Load, Responses, cpu_a_response, parse, read_log, warm_up

OUTPUT = (
    "requests: 8000 total, 8000 started, 8000 done, 8000 succeeded, 0 failed, 0 errored, 0 timeout\n"
    "traffic: 4MB (1600000) total, 80KB (80000) headers (space savings 0.00%), 9MB (9000000) data\n"
)
BODY = 100.0


def responses(number: int = 8000, status: str = "200") -> Responses:
    return Responses(
        [1e9 + index / number for index in range(number)], [0.2 + index / number for index in range(number)], {status}
    )


def test_a_burst_is_read() -> None:
    burst = parse(OUTPUT, responses(), Load(8, seconds=2), BODY, [])
    assert (burst.rps, burst.bytes_a_response, burst.cpu) == (4000, 200, None)
    assert [burst.p50, burst.p99] == pytest.approx([0.7, 1.19], abs=0.01)


def test_what_was_not_right_is_an_error() -> None:
    load = Load(8, seconds=1)
    with pytest.raises(MeasurementError, match="requests: 8000 total"):
        parse(OUTPUT, responses(status="500"), load, BODY, [])
    with pytest.raises(MeasurementError, match="3 errored"):
        parse(OUTPUT.replace("0 errored", "3 errored"), responses(), load, BODY, [])
    with pytest.raises(MeasurementError, match="8000 requests a second of 10000: it is saturated"):
        parse(OUTPUT, responses(), Load(8, seconds=1, rate=10_000), BODY, [])
    with pytest.raises(MeasurementError, match="no figures"):
        parse("unable to connect", Responses([], [], set()), load, BODY, [])


def test_responses_whose_status_was_not_read_are_read_by_bytes() -> None:
    # h2load reads no status without a reason phrase.
    load, unread = Load(8), responses(status="0")
    assert parse(OUTPUT, unread, load, BODY, []).rps == 8000
    # 200 bytes a response: a body, a fifth more or less as not all paths are asked for as often, and a head.
    for body in (166, 0):
        assert parse(OUTPUT, unread, load, body, []).rps == 8000
    big = OUTPUT.replace("(1600000)", "(16000000)")
    for output, body in ((OUTPUT, 251), (big, 830)):
        with pytest.raises(MeasurementError, match="bytes a response"):
            parse(output, unread, load, body, [])


def test_a_status_that_was_not_read_among_others_is_no_error() -> None:
    some = replace(responses(), statuses={"0", "200"})
    assert parse(OUTPUT, some, Load(8), BODY, []).rps == 8000
    for statuses in ({"0", "404"}, {"0", "200", "500"}):
        with pytest.raises(MeasurementError, match="statuses"):
            parse(OUTPUT, replace(some, statuses=statuses), Load(8), BODY, [])


def test_the_log_is_read(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none").ends == []
    log = tmp_path / "log"
    log.write_text("1000000\t200\t500000\n1000000\t404\t250000\n")
    assert read_log(log) == Responses([1.25, 1.5], [500, 250], {"200", "404"})


def test_cpu_time_is_that_of_what_counts() -> None:
    ends = [10 + index / 100 for index in range(100)]  # from 10 to 10.99
    samples = [Sample(9, 0), Sample(10, 5), Sample(10.5, 5.1), Sample(10.9, 5.18), Sample(12, 9)]
    assert cpu_a_response(ends, samples) == pytest.approx(0.18 / 90 * 1e6)
    assert cpu_a_response(ends, samples[:2]) is None


def test_a_command_has_its_warm_up_and_its_rate() -> None:
    command = Load(16, 1.5, warm_up(16, tls=True), rate=160, options=("-H", "a: b")).command(["URL"])
    assert command == [
        "h2load",
        "--h1",
        "-c",
        "16",
        "-D",
        "1500ms",
        "--warm-up-time=426ms",
        "--rps=10",
        "-H",
        "a: b",
        "URL",
    ]


def test_what_the_processors_did_is_read() -> None:
    stat = (
        "cpu  9 9 9 9 9 9 9 9 0 0\n"
        "cpu0 100 1 20 5000 7 3 4 50 0 0\n"
        "cpu1 10 0 0 0 0 0 0 1 0 0\n"
        "cpu2 900 0 0 0 0 0 0 900 0 0\n"
        "intr 1\n"
    )
    ticks = os.sysconf("SC_CLK_TCK")
    assert parse_stat(stat, {0, 1}) == Used(stolen=51 / ticks, busy=138 / ticks)


def test_another_process_that_works_disturbs_and_the_subject_does_not() -> None:
    cpus = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as worker:
        try:
            wait_until(lambda: cpu_time([worker.pid]) > 0, "the process runs", 30)
            stranger, subject = Watch(cpus), Watch(cpus, worker.pid)
            before = cpu_time([worker.pid])
            wait_until(lambda: cpu_time([worker.pid]) > before + 0.3, "it has worked for 0.3 s", 60)
            (foreign, _), (rest, _) = stranger.shares(), subject.shares()
            seconds = time.monotonic() - stranger.begin[0]
        finally:
            worker.kill()
    # The rest is other processes of this machine; a tick of the kernel's is 10 ms.
    assert (foreign - rest) * seconds > 0.2


def test_either_kind_of_use_disturbs(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(os.sched_getaffinity(0))
    for shares, disturbed in (((0.05, 0.01), False), ((0.2, 0.0), True), ((0.0, 0.05), True)):
        monkeypatch.setattr(watch, "shares", lambda shares=shares: shares)
        assert watch.was_disturbed() is disturbed


def runs_of(*names: str) -> dict[str, contextlib.AbstractContextManager[Running]]:
    class Idle:
        process = subprocess.Popen(["true"])
        process.wait()

        def resume(self) -> None: ...
        def pause(self) -> None: ...
        def must_be_alive(self) -> None: ...

    @contextlib.contextmanager
    def running() -> Iterator[Running]:
        yield cast("Running", Idle())

    return {name: running() for name in names}


@pytest.mark.parametrize(("disturbed", "retaken", "kept"), [(0, 0, 0), (2, 2, 0), (99, 3, 9)])
def test_a_disturbed_round_is_taken_again(
    monkeypatch: pytest.MonkeyPatch, disturbed: int, retaken: int, kept: int
) -> None:
    watched = iter(range(1000))
    monkeypatch.setattr(noise.Watch, "was_disturbed", lambda _: next(watched) < disturbed)
    monkeypatch.setattr(turns, "pace", lambda: 1.0)
    monkeypatch.setattr(turns, "await_calm", lambda _: None)
    plan = Plan([], {}, lambda *_: None, rounds=9)
    taken = turns.take_turns(plan, "nothing", 1, runs_of("a"), lambda _: 1.0)
    assert (taken.retaken, taken.disturbed) == (retaken, kept)
    assert len(taken.figures["a"]) == 9


def test_a_round_in_which_the_machine_slowed_down_is_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    paces = iter([1.0, 1.4, 1.0, 1.0, 1.6, 1.0, *([1.0] * 6)])  # three for each round of two subjects
    monkeypatch.setattr(noise.Watch, "was_disturbed", lambda _: False)
    monkeypatch.setattr(turns, "pace", lambda: next(paces))
    monkeypatch.setattr(turns, "await_calm", lambda _: None)
    plan = Plan([], {}, lambda *_: None, rounds=3)
    taken = turns.take_turns(plan, "nothing", 1, runs_of("a", "b"), lambda _: 1.0)
    assert (taken.retaken, taken.disturbed) == (1, 0)


def test_the_pace_is_the_time_that_work_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = noise.pace()
    monkeypatch.setattr(noise, "WORK", noise.WORK * 30)
    assert noise.pace() > 3 * pace > 0


def test_a_subject_that_fails_in_one_round_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise.Watch, "was_disturbed", lambda _: False)  # else a round is taken again, in another order
    monkeypatch.setattr(turns, "pace", lambda: 1.0)
    calls = iter(range(100))

    def measure(_: Running) -> float:
        if next(calls) == 2:  # a b, then b
            raise MeasurementError("it ended")
        return 1.0

    taken = turns.take_turns(Plan([], {}, lambda *_: None, rounds=3), "nothing", 1, runs_of("a", "b"), measure)
    assert taken.errors == {"b": "it ended"}
    assert list(taken.figures) == ["a"]

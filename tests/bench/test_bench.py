"""The benchmark: reading wrk and h2load (kept outputs of both), the command, a run of a few seconds."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from bench import oracle, results
from bench.generators import MeasurementError, parse_h2load, parse_h2load_streams, parse_wrk
from bench.measurements import STEPS, throughput
from bench.measurements.arena import Arena
from bench.measurements.base import Rate
from bench.measurements.framework import Framework
from bench.measurements.throughput import Throughput
from bench.plan import KEY_TYPES, Pair, Plan
from bench.processes import started
from bench.stats import Ratio
from bench.subjects import SUBJECTS, Place, Subject
from bench.turns import Turns, order
from tests.support.processes import ROOT, clean_environment
from tests.support.service import with_free_ports

OUTPUTS = Path(__file__).parent / "outputs"


def output(name: str) -> str:
    return (OUTPUTS / f"{name}.txt").read_text()


def test_wrk_is_read() -> None:
    burst = parse_wrk(output("wrk"))
    assert burst.rps == 45675.55
    assert burst.p50 == pytest.approx(0.329)
    assert burst.p99 == pytest.approx(10.21)
    assert burst.transfer == pytest.approx(161.93 * 2**20)


def test_latencies_of_seconds_are_read() -> None:
    assert parse_wrk(output("wrk-seconds")).p99 == pytest.approx(1200, rel=0.05)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrk-404", "Non-2xx or 3xx responses: 26872"),
        ("wrk-socket-errors", "Socket errors: connect 0, read 38907, write 0, timeout 0"),
        ("wrk-refused", "wrk gives no figures: 'unable to connect"),
        ("h2load", "wrk gives no figures"),
    ],
)
def test_what_wrk_could_not_measure_is_an_error(name: str, said: str) -> None:
    with pytest.raises(MeasurementError, match=said):
        parse_wrk(output(name))


def test_wrk_that_measured_nothing_is_an_error() -> None:
    nothing = output("wrk-socket-errors").replace("  Socket errors: connect 0, read 38907, write 0, timeout 0\n", "")
    with pytest.raises(MeasurementError, match="no figures"):
        parse_wrk(nothing)


def test_h2load_is_read() -> None:
    burst = parse_h2load(output("h2load"), 64, 1)
    assert burst.seconds == pytest.approx(0.01098)
    assert burst.responses == 64


def test_h2load_that_reads_no_status_is_read_by_bytes() -> None:
    body = len(oracle.body(10, 2))
    assert parse_h2load(output("h2load-no-reason"), 40, body).seconds == pytest.approx(0.0124)
    for wrong in (body - 1, body + 1):
        with pytest.raises(MeasurementError, match="0 succeeded, 40 failed"):
            parse_h2load(output("h2load-no-reason"), 40, wrong)


def test_h2load_over_http2_is_read() -> None:
    burst = parse_h2load_streams(output("h2load-streams"))
    assert burst.rps == 50936
    assert burst.transfer == pytest.approx(27.35 * 2**20)
    assert burst.mean == pytest.approx(4.91)
    assert burst.longest == pytest.approx(11.52)
    assert parse_h2load_streams(output("h2load-streams-slow")).rps == 2495


@pytest.mark.parametrize(
    ("name", "said"),
    [("h2load-streams-400", "10431 failed"), ("h2load-refused", "no figures"), ("wrk", "no figures")],
)
def test_what_h2load_could_not_measure_over_http2_is_an_error(name: str, said: str) -> None:
    with pytest.raises(MeasurementError, match=said):
        parse_h2load_streams(output(name))


@pytest.mark.parametrize(
    ("name", "requests", "said"),
    [
        ("h2load-404", 64, "0 succeeded, 64 failed"),
        ("h2load-refused", 16, "0 started, 0 done"),
        ("h2load", 65, "64 total"),
        ("wrk", 64, "h2load gives no figures"),
    ],
)
def test_what_h2load_could_not_measure_is_an_error(name: str, requests: int, said: str) -> None:
    with pytest.raises(MeasurementError, match=said):
        parse_h2load(output(name), requests, 1)


def test_a_slow_subject_has_time_to_open_its_connections() -> None:
    plan = Plan([], {}, lambda *_: None)
    for slow in throughput.SLOW:
        assert throughput.load_of(plan, 256, tls=True, subject=slow).warm == 8.5
        assert throughput.load_of(plan, 8, tls=True, subject=slow) == throughput.load_of(plan, 8, tls=True)
    assert throughput.load_of(plan, 256, tls=True, subject="fastpysgi") == throughput.load_of(plan, 256, tls=True)


def test_who_is_left_out_is_said() -> None:
    rate = Rate(rps=1, p50=1, p99=1, bytes=1, ratio=None, bursts=[])

    def reading(number: int, *names: str) -> str:
        return Throughput(profile="json-tls", connections=number, subjects=dict.fromkeys(names, rate)).reading()

    assert reading(256) == ""
    assert reading(4096, "granian-json", "nginx").startswith("uvicorn, hypercorn, node are left out")
    assert reading(4096, "granian-json", "uvicorn") == ""  # of a result before they were


def test_turns_go_to_and_fro() -> None:
    assert [order(number, 3) for number in range(3)] == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


def test_a_subject_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    def broken(_: Place) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-c", "raise SystemExit('no module of that name')"], {}

    subject = Subject("broken", "it ends at once", broken)
    plan = Plan([subject], {kind: Pair(tmp_path, kind) for kind in KEY_TYPES}, lambda *_: None, rounds=1)
    taken = Turns(plan, "json", "nothing", 1).take(lambda _: 1.0)
    assert taken.figures == {}
    assert "no response" in taken.errors["broken"]
    assert "no module of that name" in taken.errors["broken"]


def bench(*arguments: str, path: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env=clean_environment() | ({} if path is None else {"PATH": path}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_measurements_and_subjects_are_listed_without_load_generators(tmp_path: Path) -> None:
    listed = bench("--list", path=str(tmp_path))
    assert listed.returncode == 0, listed
    for name in (*(step.name for step in STEPS), *(subject.name for subject in SUBJECTS)):
        assert f"\n  {name}" in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--only", "json-tls-65", "steady-50"),
            "bench: --only json-tls-65: unknown; known are json-tls-64, json-tls-8,",
        ),
        (("--subjects", "uvcorn"), "bench: --subjects uvcorn: unknown; known are granian-json, granian-ceiling,"),
        (("--rounds", "0"), "bench: --rounds 0: must be 1 or more"),
        (("measure", "a.json"), "bench: a.json: unexpected; only compare and again take files"),
        (("again",), "bench: again: name one result, such as"),
        (("again", "a.json", "--full"), "bench: again: takes neither --full nor --subjects"),
        (
            ("again", "bench/results/20261124T000524Z-full.json"),
            "bench: bench/results/20261124T000524Z-full.json: nothing",
        ),
        (("compare", "a.json"), "bench: compare: name two results"),
        (("compare", "README.md", "README.md"), "bench: README.md: JSON is malformed"),
        (("compare", "a.json", "b.json"), "bench: a.json: [Errno 2] No such file"),
    ],
)
def test_an_invalid_argument_is_reported_on_one_line(arguments: tuple[str, ...], said: str) -> None:
    result = bench(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(said)


@pytest.mark.server
def test_a_variant_keeps_as_many_connections_as_the_service() -> None:
    environment = with_free_ports(clean_environment() | {"WORKERS": "1", "SELF_SIGNED": "1"})

    def start(*arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["prlimit", "--nofile=256:4096", sys.executable, "-m", "app", *arguments],
            cwd=ROOT,
            env=environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def about_open_files(process: subprocess.Popen[str]) -> list[str]:
        _, errors = process.communicate(timeout=15)
        # With and without the header that a log has and `--check` has not.
        return [re.sub(r"^20\S+Z WARNING - \d+ ", "", line) for line in errors.splitlines() if "open files" in line]

    with start(APPLICATION="bench.variants:ceiling") as variant:
        assert variant.stdout
        assert variant.stdout.readline()  # a listener responds
        variant.terminate()
        said = about_open_files(variant)
    with start("--check") as service:
        assert said == about_open_files(service) != []


@pytest.mark.long
@pytest.mark.server
@pytest.mark.skipif(not shutil.which("wrk") or not shutil.which("h2load"), reason="needs wrk and h2load")
def test_a_short_run_measures_real_subjects(tmp_path: Path) -> None:
    starlette = [f"starlette-{name}" for name in ("uvicorn", "loop", "inline")]
    steps = ("json-tls-8", "framework", "echo-8")
    for folder in (tmp_path / "first", tmp_path / "second", tmp_path / "third"):
        result = bench(
            *("--rounds", "1", "--only", *steps, "--subjects", "granian-json", *starlette, "--results", str(folder)),
            timeout=240,
        )
        assert result.returncode in {0, 1}, result.stdout
        (path,) = folder.iterdir()
        measured = results.read(path)
        errors = {name: error for each in measured.measurements for name, error in each.errors.items()}
        # Beside other tests connections may open too late, which for uvloop, one in a turn, no second attempt changes.
        late = errors.pop("starlette-uvicorn", "")
        if not errors:
            break
    assert errors == {}
    assert result.returncode == (1 if late else 0), result.stdout
    assert late == "" or re.fullmatch(r"h2load did not end within \d+ s", late)
    assert re.search(r"^3 measurements, about \d+ s on a calm machine$", result.stdout, re.MULTILINE)
    encrypted, framework, *of_arena = measured.measurements
    for each in (encrypted, *of_arena):
        assert isinstance(each, Throughput | Arena)
        service = each.subjects["granian-json"]
        assert service.rps > 0
        assert service.ratio == Ratio(1, 1, 1)
        assert service.cpu
        assert 1 < service.cpu < 10_000
        assert each.command
    assert isinstance(framework, Framework)
    assert list(framework.subjects) == (starlette[1:] if late else starlette)
    assert late or framework.reading()
    assert measured.environment.packages["granian"]
    assert measured.environment.unpinned == []
    assert measured.interval == results.BOOTSTRAP


@pytest.mark.skipif(not shutil.which("wrk") or not shutil.which("h2load"), reason="needs wrk and h2load")
def test_what_was_disturbed_is_measured_again(tmp_path: Path) -> None:
    first = tmp_path / "20260101T000000Z-full.json"
    environment = results.environment()
    rate = Rate(rps=1, p50=1, p99=1, bytes=1, ratio=None, bursts=[])
    others = [
        Throughput(profile="json-tls", connections=64, subjects={"granian-json": rate}, step=step, disturbed=disturbed)
        for step, disturbed in (("in-process", 2), ("json-tls-64", 0), ("json-tls-8", 1))
    ]
    subjects = {"granian-json": "this service"}
    results.write(first, results.Result(environment, subjects, others, results.BOOTSTRAP))
    again = bench("again", str(first), "--only", "in-process", "json-tls-64", "--results", str(tmp_path), timeout=120)
    assert again.returncode == 0, again
    assert again.stdout.startswith("1 measurements, about")
    (new,) = set(tmp_path.iterdir()) - {first}
    assert new.name.endswith("-full.json")
    measured, *kept = results.read(new).measurements
    assert (measured.table().title, measured.step, measured.disturbed) == ("A request in process", "in-process", 0)
    assert measured.again
    assert kept == others[1:]
    elsewhere = structs.replace(environment, cpu="another")
    results.write(first, results.Result(elsewhere, subjects, others, results.BOOTSTRAP))
    refused = bench("again", str(first))
    assert refused.returncode == 2
    assert "cpu: another before, " in refused.stderr
    assert "its figures go with no others" in refused.stderr


@pytest.mark.server
@pytest.mark.skipif(not shutil.which("wrk") or not shutil.which("h2load"), reason="needs wrk and h2load")
def test_all_servers_serve_the_arenas_application(tmp_path: Path) -> None:
    plan = Plan(SUBJECTS, {kind: Pair(tmp_path, kind) for kind in KEY_TYPES}, lambda *_: None)
    servers = plan.of("arena").subjects
    assert [each.name for each in servers] == ["granian-json", "uvicorn", "fastpysgi"]
    for each in servers:
        with started(each, plan, "baseline", None):  # compares a sum, an echo and JSON
            pass

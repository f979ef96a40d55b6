"""The benchmark: reading wrk and h2load (kept outputs of both), statistics, the command, a run of a few seconds."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import oracle, results, tables
from bench.generators import Burst, MeasurementError, parse_h2load, parse_h2load_streams, parse_wrk
from bench.measurements import STEPS
from bench.measurements.base import Rate
from bench.measurements.framework import Framework
from bench.measurements.steady import Latency, Steady, latencies
from bench.measurements.throughput import Throughput, TlsOverhead
from bench.plan import KEY_TYPES, Pair, Plan
from bench.reading import readme_section
from bench.stats import Ratio, percentile, ratios
from bench.subjects import SUBJECTS, Place, Subject
from bench.turns import order, subjects_in_turn
from tests.support.ports import free_ports
from tests.support.processes import ROOT, clean_environment

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


def test_turns_go_to_and_fro() -> None:
    assert [order(number, 3) for number in range(3)] == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


def test_ratios_are_taken_burst_by_burst() -> None:
    # A machine that doubles its speed half-way changes both series and no ratio.
    assert ratios([1, 1, 2, 2], [2, 2, 4, 4]) == Ratio(0.5, 0.5, 0.5)
    assert ratios([1, 2, 3, 4, 5], [1, 1, 1, 1, 1]) == Ratio(3, 2, 4)
    assert ratios([3], [2]) == Ratio(1.5, 1.5, 1.5)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1, 2], [1])


def test_percentile() -> None:
    series = [float(number) for number in range(1, 101)]
    assert (percentile(series, 50), percentile(series, 99), percentile([7.0], 99)) == (50, 99, 7)


def test_an_error_is_shown_as_one() -> None:
    rate = Rate(rps=10, p50=1, p99=2, bytes=3, ratio=None, bursts=[Burst(10, 1, 2, 30)])
    shown = tables.section(
        Throughput(profile="json", connections=1, subjects={"a": rate}, errors={"b": "it ended"}),
    )
    assert "| a | 10 | - | 1.00 | 2.00 |" in shown
    assert "| b | error: it ended |  |  |  |" in shown


def test_a_steady_rate_is_read() -> None:
    log = "\n".join(f"{time}\t200\t{250 + time}" for time in range(8000))
    output = "requests: 8000 total, 8000 succeeded, 0 failed, 0 errored, 0 timeout\ntraffic: (80) total, (80000) data"
    assert latencies(output, log, 10)[:2] == [0.25, 0.251]
    with pytest.raises(MeasurementError, match="requests: 8000 total"):
        latencies(output, log.replace("\t200\t", "\t500\t", 1), 10)
    with pytest.raises(MeasurementError, match="1500 requests a second instead of 2000"):
        latencies(output, "\n".join(log.splitlines()[:6000]), 10)
    unread = log.replace("\t200\t", "\t0\t")
    assert len(latencies(output, unread, 10)) == 8000
    with pytest.raises(MeasurementError, match="requests: 8000 total"):
        latencies(output, unread, 11)


def test_a_subject_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    def broken(_: Place) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-c", "raise SystemExit('no module of that name')"], {}

    subject = Subject("broken", "it ends at once", broken)
    plan = Plan([subject], {kind: Pair(tmp_path, kind) for kind in KEY_TYPES}, lambda _: None, rounds=1)
    figures, errors = subjects_in_turn(plan, "json", None, "nothing", lambda _: 1.0)
    assert figures == {}
    assert "no response" in errors["broken"]
    assert "no module of that name" in errors["broken"]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    for path in (ROOT / "bench" / "results").glob("*.json"):
        result = results.read(path)
        results.write(tmp_path / path.name, result)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_report_is_made_of_the_newest_full_result() -> None:
    newest = max((ROOT / "bench" / "results").glob("*-full.json"))
    text = (ROOT / "bench" / "REPORT.md").read_text()
    assert newest.name in text
    result = results.read(newest)
    assert tables.text(result.measurements) in text
    assert readme_section(result) in (ROOT / "README.md").read_text()


def test_the_readme_says_where_this_service_wins_and_loses_and_what_p99_is() -> None:
    subjects = {
        name: Rate(rps=10, p50=1, p99=2, bytes=3, ratio=Ratio(ratio, ratio, ratio), bursts=[])
        for name, ratio in (("granian-json", 1), ("slow", 0.5), ("slower", 0.25), ("fast", 2))
    }
    one = Throughput(profile="json-tls", connections=1, subjects={**subjects, "slow": subjects["fast"]})
    many = Throughput(profile="json-tls", connections=256, subjects=subjects)
    steady = Steady(rate=2000, subjects={"granian-json": Latency(p50=0.1, p99=0.9, ratio=None)})
    environment = results.read(max((ROOT / "bench" / "results").glob("*.json"))).environment
    section = readme_section(results.Result(environment, {"fast": "one that cheats"}, [one, many, steady]))
    assert " ".join(section.rpartition("\n\n")[2].split()) == (
        "Over TLS at 256 connections this service's rate is 2.0 times that of slow and 4.0 times that of slower."
        " It loses, too: fast (one that cheats) has 2.0 times and slow at 1 connection 2.0 times its rate."
        " p99 in this table (2 ms) measures the 256 handshakes with which a burst begins, not the requests:"
        " at a steady 2,000 requests a second it is 0.9 ms."
    )
    assert max(map(len, section.splitlines())) <= 120


def test_what_the_starlette_application_takes_is_read_from_its_table() -> None:
    def rate(rps: float, ratio: float) -> Rate:
        return Rate(rps=rps, p50=1, p99=2, bytes=3, ratio=Ratio(ratio, ratio, ratio), bursts=[])

    subjects = {"starlette-uvicorn": rate(8000, 1), "starlette-loop": rate(10000, 1.25)}
    assert Framework(connections=64, subjects=subjects).reading() == ""
    subjects["starlette-inline"] = rate(12500, 1.56)
    shown = tables.section(Framework(connections=64, subjects=subjects))
    assert "| starlette-loop | 10000 | 1.25 (1.25 to 1.25) | 100 | 1.00 | 2.00 |" in shown
    assert " ".join(shown.rpartition("|")[2].split()) == (
        "The same Starlette application, over TLS at 64 connections, takes 125 us a request on uvicorn, 100 us on this"
        " launcher (1.25 times the rate) and 80 us if it runs inline there (1.56 times). The difference is the servers':"
        " the more an application does itself, the less it matters."
    )


def bench(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env=clean_environment() | ({} if path is None else {"PATH": path}),
        capture_output=True,
        text=True,
        timeout=60,
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
            ("--only", "throughput-65", "steady"),
            "bench: --only throughput-65: unknown; known are in-process, throughput-1,",
        ),
        (("--subjects", "uvcorn"), "bench: --subjects uvcorn: unknown; known are granian-json, granian-ceiling,"),
        (("--rounds", "0"), "bench: --rounds 0: must be 1 or more"),
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
    ports = dict(zip(("TLS_PORT", "PORT"), map(str, free_ports(2)), strict=True))

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["prlimit", "--nofile=256:4096", sys.executable, "-m", "app", *arguments],
            cwd=ROOT,
            env=clean_environment() | ports | {"WORKERS": "1", "SELF_SIGNED": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def about_open_files(process: subprocess.Popen[str]) -> list[str]:
        _, errors = process.communicate(timeout=15)
        return [line for line in errors.splitlines() if "open files" in line]

    with start(APPLICATION="bench.variants:ceiling") as variant:
        assert variant.stdout
        assert variant.stdout.readline()  # a listener responds
        variant.terminate()
        said = about_open_files(variant)
    with start("--check") as service:
        assert said == about_open_files(service) != []


@pytest.mark.server
@pytest.mark.skipif(not shutil.which("wrk") or not shutil.which("h2load"), reason="needs wrk and h2load")
def test_a_short_run_measures_real_subjects(tmp_path: Path) -> None:
    starlette = [f"starlette-{name}" for name in ("uvicorn", "loop", "inline")]
    result = bench(
        *("--rounds", "1", "--only", "throughput-64", "framework", "--subjects", "granian-json", *starlette),
        *("--results", str(tmp_path)),
    )
    assert result.returncode == 0, result
    (path,) = tmp_path.iterdir()
    measured = results.read(path)
    plain, encrypted, overhead, framework = measured.measurements
    for each in (plain, encrypted):
        assert isinstance(each, Throughput)
        assert each.errors == {}
        assert each.subjects["granian-json"].rps > 0
        assert each.subjects["granian-json"].ratio == Ratio(1, 1, 1)
    assert isinstance(overhead, TlsOverhead)
    assert "granian-json" in overhead.shares
    assert isinstance(framework, Framework)
    assert framework.errors == {}
    assert list(framework.subjects) == starlette
    assert framework.reading()
    assert measured.environment.packages["granian"]

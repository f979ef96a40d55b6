"""What is said of figures: statistics, tables, the report, the README, charts, comparisons, the time left."""

import re
from pathlib import Path

import pytest

from bench import charts, comparison, progress, reading, results, tables
from bench.generators import Burst
from bench.measurements.base import Aim, Rate, rates
from bench.measurements.framework import Framework
from bench.measurements.steady import Share
from bench.measurements.throughput import Throughput
from bench.plan import Plan
from bench.stats import Ratio, percentile, ratios
from bench.subjects import SUBJECTS
from tests.support.processes import ROOT

KEPT = sorted((ROOT / "bench" / "results").glob("*.json"))


def rate(rps: float = 10, ratio: float | None = 1, p99: float = 2, cpu: float | None = None) -> Rate:
    def same(figure: float | None) -> Ratio | None:
        return None if figure is None else Ratio(figure, figure, figure)

    return Rate(
        rps=rps, p50=1, p99=p99, bytes=3, ratio=same(ratio), bursts=[], cpu=cpu, cpu_ratio=same(cpu and cpu / 20)
    )


def result(*measurements: Throughput | Share | Framework) -> results.Result:
    return results.Result(results.read(KEPT[0]).environment, {}, measurements, results.BOOTSTRAP)


def test_ratios_are_taken_burst_by_burst() -> None:
    # A machine that doubles its speed half-way changes both series and no ratio.
    assert ratios([1, 1, 2, 2], [2, 2, 4, 4]) == Ratio(0.5, 0.5, 0.5)
    assert ratios([3], [2]) == Ratio(1.5, 1.5, 1.5)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1, 2], [1])


def test_the_interval_is_that_of_the_median() -> None:
    # The median of 9 lies between the second and the eighth of them with a probability of 96 %.
    found = ratios([1, 2, 3, 4, 5, 6, 7, 8, 9], [1] * 9)
    assert [found.median, found.low, found.high] == pytest.approx([5, 2.5, 7.5], abs=0.5)
    assert found == ratios([1, 2, 3, 4, 5, 6, 7, 8, 9], [1] * 9)
    one_outlier = ratios([1, 1, 1, 1, 9, 1, 1, 1, 1], [1] * 9)
    assert one_outlier == Ratio(1, 1, 1)


def test_percentile() -> None:
    series = [float(number) for number in range(1, 101)]
    assert (percentile(series, 50), percentile(series, 99), percentile([7.0], 99)) == (50, 99, 7)


def test_cpu_time_is_compared_if_every_burst_has_it() -> None:
    plan = Plan(SUBJECTS[:1], {}, lambda *_: None)
    name = SUBJECTS[0].name
    bursts = {name: [Burst(10, 1, 2, 30, 20.0)] * 2, "half": [Burst(5, 1, 4, 30, 40.0), Burst(5, 1, 4, 30)]}
    found = rates(plan, bursts, lambda each: each.rps)
    assert found[name].cpu_ratio == Ratio(1, 1, 1)
    assert (found["half"].cpu, found["half"].cpu_ratio, found["half"].p99_ratio) == (40, None, Ratio(2, 2, 2))
    assert found["half"].ratio == Ratio(0.5, 0.5, 0.5)


def test_an_error_is_shown_as_one() -> None:
    shown = tables.section(
        Throughput(profile="json", connections=1, subjects={"a": rate(ratio=None)}, errors={"b": "it ended"}),
    )
    assert "### json, 1 connection\n" in shown
    assert "| a | 10 | - | 1.00 | 2.00 | - |" in shown
    assert "| b | error: it ended |  |  |  |  |" in shown


def test_a_measurement_that_stayed_disturbed_says_so() -> None:
    quiet, retaken, disturbed = (
        Throughput(profile="json", connections=1, subjects={}, retaken=retaken, disturbed=disturbed)
        for retaken, disturbed in ((0, 0), (2, 0), (9, 3))
    )
    assert tables.noise(quiet) == ""
    assert tables.noise(retaken) == "Rounds taken again, as they were disturbed: 2."
    assert (
        "**Disturbed**: others used the machine, or its speed changed, in 3 of the rounds that count"
        in tables.section(disturbed)
    )


def test_what_was_measured_again_takes_its_place_if_it_is_less_disturbed() -> None:
    def measured(step: str, disturbed: int, rps: float) -> Throughput:
        subjects = {"granian-json": rate(rps)}
        return Throughput(profile="json-tls", connections=1, subjects=subjects, step=step, disturbed=disturbed)

    before = result(measured("a", 3, 1), measured("b", 3, 1), measured("b", 0, 1), measured("c", 0, 1))
    again = [measured("a", 3, 2), measured("b", 1, 2), measured("b", 1, 2)]
    kept = before.with_again(again, "today").measurements
    assert [each.step for each in kept] == ["a", "b", "b", "c"]
    assert [each.again for each in kept] == ["", "today", "today", ""]
    assert "Measured again today, as others had used the machine. **Disturbed**" in " ".join(
        tables.section(kept[1]).split()
    )


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_results_are_read_as_they_were_written(path: Path, tmp_path: Path) -> None:
    kept = results.read(path)
    results.write(tmp_path / path.name, kept)
    assert results.read(tmp_path / path.name) == kept
    assert tables.text(kept.measurements)


def test_a_result_says_what_its_intervals_are(tmp_path: Path) -> None:
    results.write(tmp_path / "new.json", result())
    assert results.read(tmp_path / "new.json").interval == results.BOOTSTRAP
    # An older one has neither bootstrap intervals nor CPU time.
    kept = results.read(ROOT / "bench" / "results" / "20261124T000524Z-full.json")
    assert kept.interval == results.MIDDLE_HALF
    assert reading.over_tls(kept)[64].subjects["uvicorn"].cpu is None


def test_the_report_is_made_of_the_newest_full_result() -> None:
    newest = max((ROOT / "bench" / "results").glob("*-full.json"))
    text = (ROOT / "bench" / "REPORT.md").read_text()
    assert newest.name in text
    kept = results.read(newest)
    assert tables.text(kept.measurements) in text
    assert reading.choice(kept) in text
    assert reading.readme_section(kept) in (ROOT / "README.md").read_text()


def test_the_report_says_which_server_to_choose_and_where_this_one_loses() -> None:
    of_one = {
        "granian-json": rate(100),
        "uvicorn": rate(80, 0.8),
        "fastpysgi": rate(130, 1.3),
        "nginx-files": rate(900, 9),
    }
    of_many = {"granian-json": rate(100), "uvicorn": rate(40, 0.4), "fastpysgi": rate(99, 0.99)}
    steady = Share(
        share=0.5,
        rate=12_300,
        connections=64,
        subjects={"granian-json": rate(p99=0.4, cpu=20), "uvicorn": rate(p99=1.5, cpu=40)},
    )
    found = result(
        Throughput(profile="json-tls", connections=64, subjects=of_many),
        Throughput(profile="json-tls", connections=1, subjects=of_one),
        steady,
    )
    assert reading.headlines(found) == [
        (
            "64 connections over TLS: 2.50 (2.50 to 2.50) times the rate of uvicorn and 1.01 (1.01 to 1.01) times the rate of"
            " fastpysgi"
        ),
        (
            "12,300 requests a second over TLS (50% of uvicorn's capacity): p99 0.40 ms, uvicorn's 1.50 ms; CPU time a request"
            " 0.50 of uvicorn's"
        ),
        (
            "1 connection over TLS: 1.25 (1.25 to 1.25) times the rate of uvicorn and 0.77 (0.77 to 0.77) times the rate of"
            " fastpysgi"
        ),
    ]
    assert " ".join(reading.choice(found).split()) == (
        "For 64 connections at full speed choose granian-json (100 a second) or fastpysgi (99 a second), before uvicorn"
        " (40 a second). For 1 connection at full speed choose fastpysgi (130 a second), before granian-json (100 a second)"
        " and uvicorn (80 a second). At 12,300 requests a second, 50% of what uvicorn can do, the shortest p99 has"
        " granian-json (0.40 ms), before uvicorn (1.50 ms), and the least CPU time a request granian-json (20.00 us),"
        " before uvicorn (40.00 us)."
    )
    losses = " ".join(reading.losses(found).split())
    assert losses.startswith(
        "fastpysgi has a higher rate, 1.30 times at 1 connection. nginx-files has a higher rate, 9.00"
    )
    assert "it sends files" in losses
    assert reading.ONE_CONNECTION in losses
    section = reading.readme_section(found)
    assert max(map(len, section.split("<picture>")[1].splitlines())) <= 120


def test_what_its_interval_does_not_tell_from_this_service_is_equal() -> None:
    of = {"granian-json": rate(p99=1.1, cpu=20), "uvicorn": rate(p99=3, cpu=40), "fastpysgi": rate(p99=1.0, cpu=90)}
    of["fastpysgi"].p99_ratio = Ratio(0.98, 0.5, 1.6)
    of["uvicorn"].p99_ratio = Ratio(2.7, 1.9, 4)
    said = reading.choice(result(Share(share=0.5, rate=12_300, connections=64, subjects=of)))
    assert "the shortest p99 has fastpysgi (1.00 ms) or granian-json (1.10 ms), before uvicorn" in " ".join(
        said.split()
    )
    of["fastpysgi"].ratio = Ratio(1.03, 0.92, 1.29)
    assert reading.losses(result(Throughput(profile="json-tls", connections=8, subjects=of))) == ""


def test_how_many_measurements_were_disturbed_is_said() -> None:
    calm, other = (Throughput(profile="json", connections=1, subjects={}, disturbed=each) for each in (0, 2))
    assert reading.trust(result(calm)) == ""
    assert "in 1 of 2 measurements" in reading.trust(result(calm, other))


def test_an_aim_says_whether_it_was_reached() -> None:
    rows = [Aim("rate", 2, 1.995).row(), Aim("rate", 2, 2).row(), Aim("memory", 8, 7.5, "MiB", at_most=True).row()]
    assert rows == [
        ["rate", "2", "2.00", "no"],
        ["rate", "2", "2.00", "yes"],
        ["memory", "8 MiB at most", "7.50 MiB", "yes"],
    ]
    assert Aim("CPU time", 0.6, 0.61, at_most=True).row()[-1] == "no"


def test_what_the_starlette_application_takes_is_read_from_its_table() -> None:
    subjects = {"starlette-uvicorn": rate(8000), "starlette-loop": rate(10000, 1.25)}
    assert Framework(connections=64, subjects=subjects).reading() == ""
    subjects["starlette-inline"] = rate(12500, 1.56)
    shown = tables.section(Framework(connections=64, subjects=subjects))
    assert "| starlette-loop | 10000 | 1.25 (1.25 to 1.25) | 100 | 1.00 | 2.00 |" in shown
    assert " ".join(shown.rpartition("|")[2].split()) == (
        "The same Starlette application, over TLS at 64 connections, takes 125 us a request on uvicorn, 100 us on this"
        " launcher (1.25 times the rate) and 80 us if it runs inline there (1.56 times). The difference is the servers':"
        " the more an application does itself, the less it matters."
    )


def test_a_chart_names_each_line_at_its_end_and_starts_at_zero(tmp_path: Path) -> None:
    measured = [
        Throughput(
            profile="json-tls",
            connections=number,
            subjects={"granian-json": rate(1000 - number), "uvicorn": rate(990 - number)}
            | ({"slow": rate(900)} if number == 8 else {}),
        )
        for number in (1, 8, 64)
    ]
    assert charts.rates(measured, "json-tls")["granian-json"] == [(8, 992), (64, 936)]
    shown = charts.draw(measured, tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"json-tls-light.svg", "json-tls-dark.svg"}
    for theme in ("light", "dark"):
        drawn = (tmp_path / f"json-tls-{theme}.svg").read_text()
        assert f"results/json-tls-{theme}.svg" in shown
        for label in ("granian-json", "uvicorn", "slow (to 8)", ">0<"):
            assert label in drawn
        assert "legend" not in drawn
        assert re.search(rf"fill: {charts.THEMES[theme][0]}", drawn)


def test_labels_do_not_overlap() -> None:
    assert charts.spread([1, 1.1, 5], 1) == [1, 2, 5]
    assert charts.spread([], 1) == []


def test_two_results_are_compared_by_their_ratios() -> None:
    before, after = (
        result(
            Throughput(
                profile="json-tls", connections=64, subjects={"granian-json": rate(rps), "uvicorn": rate(rps, ratio)}
            )
        )
        for rps, ratio in ((100, 0.5), (200, 0.4))
    )
    (row,) = comparison.rows(before, after)
    assert (row.measurement, row.subject) == ("json-tls, 64 connections", "uvicorn")
    assert row.change == pytest.approx(0.8)
    assert not row.overlap
    assert comparison.differences(before, after) == []
    other = results.Result(results.read(KEPT[0]).environment, {}, [], results.MIDDLE_HALF)
    other.environment.packages["uvicorn"] = "0.1"
    assert [line.partition(":")[0] for line in comparison.differences(before, other)] == ["uvicorn", "interval"]


def test_ratios_at_steady_rates_are_found_though_the_rates_differ() -> None:
    subjects = {"granian-json": rate(cpu=20), "uvicorn": rate(cpu=40)}
    runs = [result(Share(share=0.5, rate=each, connections=64, subjects=subjects)) for each in (100, 110)]
    assert "uvicorn, cpu" in [row.subject for row in comparison.rows(*runs)]


def test_the_time_left_follows_what_was_measured() -> None:
    left = progress.Left(100, now=0)
    assert left.at(1) == 99
    left.report(1, now=4)  # too little is over to know how slow the machine is
    assert left.at(4) == 99
    left.report(50, now=100)
    assert left.at(100) == 100
    assert left.at(130) == 70
    left.report(100, now=190)
    assert left.at(190) == 0

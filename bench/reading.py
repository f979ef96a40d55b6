"""What the README says of the benchmark: the table of json-tls, its chart, and how to read both in a few sentences."""

from collections.abc import Mapping

from bench.measurements.base import Rate
from bench.measurements.framework import Framework
from bench.measurements.steady import Steady
from bench.measurements.throughput import HEADLINE, Throughput
from bench.results import Result
from bench.subjects import SERVICE
from bench.tables import paragraph, section

CHART = f"![json-tls: rates by connections, {SERVICE} = 1](bench/results/json-tls.svg)"


def readme_section(result: Result) -> str:
    """Write the README's section; a sentence whose figures were not measured is left out."""
    over_tls = {
        each.connections: each
        for each in result.measurements
        if isinstance(each, Throughput) and each.profile == "json-tls"
    }
    headline = over_tls.get(HEADLINE)
    if headline is None:
        return "The run has no figures for json-tls.\n"
    environment = result.environment
    measured = f"{environment.date}, {environment.cpu}, Python {environment.python.split()[0]}:"
    steady = next((each for each in result.measurements if isinstance(each, Steady)), None)
    gained = [each.reading() for each in result.measurements if isinstance(each, Framework)]
    reading = paragraph([_wins(headline), _losses(over_tls, result.subjects), _p99(headline, steady), *gained])
    return f"{measured}\n\n{section(headline)}\n{CHART}\n\n{reading}\n"


def _others(measurement: Throughput) -> Mapping[str, float]:
    """List the rates of the other subjects, this service's being 1; the fastest first."""
    ratios = {name: each.ratio.median for name, each in measurement.subjects.items() if each.ratio and name != SERVICE}
    return dict(sorted(ratios.items(), key=lambda each: -each[1]))


def _wins(headline: Throughput) -> str:
    won = [f"{1 / ratio:.1f} times that of {name}" for name, ratio in _others(headline).items() if ratio < 1]
    return f"Over TLS at {HEADLINE} connections this service's rate is {_listed(won)}." if won else ""


def _losses(over_tls: Mapping[int, Throughput], subjects: Mapping[str, str]) -> str:
    """Say who is faster at HEADLINE connections, and who at others alone."""
    lost = {name: ratio for name, ratio in _others(over_tls[HEADLINE]).items() if ratio > 1}
    parts = [f"{name} ({subjects.get(name, 'another server')}) has {ratio:.1f} times" for name, ratio in lost.items()]
    parts += [
        f"{name} at {connections} connection{'s' if connections > 1 else ''} {ratio:.1f} times"
        for connections, each in over_tls.items()
        for name, ratio in _others(each).items()
        if ratio > 1 and name not in lost
    ]
    return f"It loses, too: {_listed(parts)} its rate." if parts else ""


def _p99(headline: Throughput, steady: Steady | None) -> str:
    """Say what p99 of a burst measures: every burst begins with HEADLINE handshakes."""
    burst: Rate | None = headline.subjects.get(SERVICE)
    if burst is None or steady is None or SERVICE not in steady.subjects:
        return ""
    return (
        f"p99 in this table ({burst.p99:.0f} ms) measures the {HEADLINE} handshakes with which a burst begins, not the"
        f" requests: at a steady {steady.rate:,} requests a second it is {steady.subjects[SERVICE].p99:.1f} ms."
    )


def _listed(parts: list[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last

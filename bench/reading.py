"""What the report, the README and the terminal say of the figures in sentences; none is typed by hand."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from bench.measurements.base import Rate
from bench.measurements.framework import Framework
from bench.measurements.steady import MEASURE, SHARES, Share
from bench.measurements.throughput import HEADLINE, Throughput, connections
from bench.results import Result
from bench.subjects import ASGI_SERVERS, SERVICE
from bench.tables import bullets, paragraph, section

WITHIN = 1.03
"""Servers whose figures differ by less are called equal."""
WHY = {
    "granian-ceiling": "it encodes nothing, which is what JSON costs here",
    "nginx-files": "it sends files, and runs no Python",
}
ONE_CONNECTION = (
    "With one connection there is nothing to do while a request crosses from Granian's I/O thread to the thread that runs"
    " Python, and its response back; fastpysgi reads, runs the application and writes in one thread, and polls without"
    " sleeping: it takes its whole CPU at any rate."
)


def over_tls(result: Result) -> dict[int, Throughput]:
    """Return what was measured over TLS, by connections."""
    found = [each for each in result.measurements if isinstance(each, Throughput) and each.profile == "json-tls"]
    return {each.connections: each for each in sorted(found, key=lambda each: each.connections)}


def shares(result: Result) -> dict[float, Share]:
    """Return what was measured at steady rates, by their share of uvicorn's capacity."""
    found = [each for each in result.measurements if isinstance(each, Share) and each.subjects]
    return {each.share: each for each in sorted(found, key=lambda each: each.share)}


def headlines(result: Result) -> list[str]:
    """Write the three figures that matter, as far as they were measured."""
    at, steady = over_tls(result), shares(result).get(SHARES[0])
    lines = [
        f"{connections(number)} over TLS: {line}"
        for number in (HEADLINE, 1)
        if number in at and (line := _times(at[number].subjects))
    ]
    if steady and (both := _pair(steady.subjects)) and both[1].cpu_ratio:
        ours, theirs = both
        lines.insert(
            1,
            f"{steady.rate:,.0f} requests a second over TLS ({steady.share:.0%} of {MEASURE}'s capacity): p99"
            f" {ours.p99:.2f} ms, {MEASURE}'s {theirs.p99:.2f} ms; CPU time a request"
            f" {1 / both[1].cpu_ratio.median:.2f} of {MEASURE}'s",
        )
    return lines


def _pair(subjects: Mapping[str, Rate]) -> tuple[Rate, Rate] | None:
    return (subjects[SERVICE], subjects[MEASURE]) if {SERVICE, MEASURE} <= subjects.keys() else None


def _times(subjects: Mapping[str, Rate]) -> str:
    parts = [
        f"{1 / each.ratio.median:.2f} ({1 / each.ratio.high:.2f} to {1 / each.ratio.low:.2f}) times the rate of {name}"
        for name, each in subjects.items()
        if name in ASGI_SERVERS and name != SERVICE and each.ratio
    ]
    return listed(parts) if parts else ""


def choice(result: Result, steady: Sequence[float] = SHARES) -> str:
    """Say which server to choose for the same application, for many clients, for one, and at steady rates.

    Those are `steady`, as shares of what MEASURE can do.
    """
    sentences = [
        f"For {connections(number)} at full speed choose {_best(figures)}."
        for number, each in reversed(over_tls(result).items())
        if number in (HEADLINE, 1)
        and (figures := {name: rate.rps for name, rate in each.subjects.items() if name in ASGI_SERVERS})
    ]
    for share in (each for each in shares(result).values() if each.share in steady):
        of = {name: rate for name, rate in share.subjects.items() if name in ASGI_SERVERS}
        tail = {name: 1 / rate.p99 for name, rate in of.items()}
        tied = {name for name, rate in of.items() if (ratio := rate.p99_ratio) and ratio.low <= 1 <= ratio.high}
        cpu = {name: 1 / rate.cpu for name, rate in of.items() if rate.cpu}
        if tail and cpu:
            sentences.append(
                f"At {share.rate:,.0f} requests a second, {share.share:.0%} of what {MEASURE} can do, the shortest p99"
                f" has {_best(tail, 'ms', tied)}, and the least CPU time a request {_best(cpu, 'us')}."
            )
    return paragraph(sentences)


def _best(figures: Mapping[str, float], unit: str = "", tied: AbstractSet[str] = frozenset()) -> str:
    """Name the server with the highest figure (with a unit: of 1 / figure), and those that are as good.

    Those are within WITHIN of it, or `tied`: not told from this service by the interval of their ratio.
    """
    ranked = sorted(figures, key=lambda name: -figures[name])
    equal = [
        name for name in ranked if figures[name] * WITHIN >= figures[ranked[0]] or {name, ranked[0]} <= tied | {SERVICE}
    ]
    rest = [name for name in ranked if name not in equal][:2]
    shown = {name: f"{1 / figures[name]:.2f} {unit}" if unit else f"{figures[name]:,.0f} a second" for name in ranked}
    best = " or ".join(f"{name} ({shown[name]})" for name in equal)
    return f"{best}, before {listed([f'{name} ({shown[name]})' for name in rest])}" if rest else best


def trust(result: Result) -> str:
    """Say how many measurements were disturbed, if any was."""
    number = sum(each.disturbed > 0 for each in result.measurements)
    if not number:
        return ""
    return (
        f"The machine was not calm: in {number} of {len(result.measurements)} measurements others disturbed some of the"
        " rounds that count. Rely on an order only where the intervals are apart, and on no second digit."
    )


def losses(result: Result) -> str:
    """Say who is faster over TLS beyond the interval, with how many connections, and why."""
    at = over_tls(result)
    faster: dict[str, list[tuple[int, float]]] = {}
    for number, each in at.items():
        for name, rate in each.subjects.items():
            if name != SERVICE and rate.ratio and rate.ratio.low > 1:
                faster.setdefault(name, []).append((number, rate.ratio.median))
    sentences = []
    for name, lost in faster.items():
        where = listed([f"{ratio:.2f} times at {connections(number)}" for number, ratio in lost])
        why = f": {WHY[name]}" if name in WHY else ""
        sentences.append(f"{name} has a higher rate, {where}{why}.")
    if 1 in {number for name, lost in faster.items() if name == "fastpysgi" for number, _ in lost}:
        sentences.append(ONE_CONNECTION)
    for share in shares(result).values():
        of = {name: each.p99_ratio for name, each in share.subjects.items() if name in ASGI_SERVERS}
        shorter = [f"{name} ({ratio.median:.2f} of ours)" for name, ratio in of.items() if ratio and ratio.high < 1]
        if shorter:
            sentences.append(f"At {share.share:.0%} of {MEASURE}'s capacity {listed(shorter)} has a shorter p99.")
    return paragraph(sentences)


def readme_section(result: Result) -> str:
    """Write the README's section; a sentence whose figures were not measured is left out."""
    headline = over_tls(result).get(HEADLINE)
    if headline is None:
        return "The run has no figures for json-tls.\n"
    environment = result.environment
    measured = f"{environment.date}, {environment.cpu}, Python {environment.python.split()[0]}, one worker:"
    gained = [each.reading() for each in result.measurements if isinstance(each, Framework)]
    parts = [
        measured,
        bullets(headlines(result)),
        paragraph([trust(result)]),
        section(headline).strip(),
        f"In brackets: {result.interval}.",
        picture("json-tls", "json-tls: rates by connections", "bench/results"),
        choice(result, SHARES[:1]),
        losses(result),
        paragraph(gained),
    ]
    return "\n\n".join(each for each in parts if each) + "\n"


def picture(name: str, alternative: str, folder: str) -> str:
    """Write a chart that follows the reader's theme, dark or light."""
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{folder}/{name}-dark.svg">\n'
        f'  <img alt="{alternative}" src="{folder}/{name}-light.svg">\n</picture>'
    )


def listed(parts: Sequence[str]) -> str:
    """Join parts as in a sentence."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last

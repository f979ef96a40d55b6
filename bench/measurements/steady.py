"""Latency and CPU time at a steady rate, well below saturation: a share of what uvicorn can do."""

import statistics
from dataclasses import replace
from functools import partial

import msgspec

from bench.generators import Burst, MeasurementError
from bench.measurements.base import Measurement, Rate, Step, Table, number, rates
from bench.measurements.throughput import BODY, KEY, PATHS, load_of
from bench.plan import Plan
from bench.processes import Running, started
from bench.stats import Ratio, shown
from bench.subjects import SUBJECTS
from bench.turns import START, Turns
from bench.warm import Load, burst

CONNECTIONS = 64
SECONDS = 1.5
SHARES = (0.5, 0.1, 0.8)
MEASURE, PROBES = "uvicorn", 5
"""The subject whose capacity is the measure, and the bursts that find it."""


class Latency(msgspec.Struct):
    """Milliseconds: medians of the rounds, and the ratio of p99 to this service's; in results before November 2026."""

    p50: float
    p99: float
    ratio: Ratio | None


class Steady(Measurement, tag="steady"):
    """Latencies at `rate` requests a second over TLS; in results before November 2026 alone."""

    rate: int
    subjects: dict[str, Latency]

    def table(self) -> Table:
        """Return a row for each subject."""
        rows = [[name, f"{each.p50:.2f}", f"{each.p99:.2f}", shown(each.ratio)] for name, each in self.subjects.items()]
        head = ["subject", "p50 ms", "p99 ms", "ratio of p99"]
        return Table(f"Latency at {self.rate} requests a second over TLS, count 25", head, rows)


class Share(Measurement, tag="share"):
    """The arena's mix over TLS at `rate` requests a second, a `share` of uvicorn's capacity with as many connections."""

    share: float
    rate: float
    connections: int
    subjects: dict[str, Rate]

    def identity(self) -> str:
        """Return a name without the rate, which each run finds anew."""
        return f"json-tls at {self.share:.0%} of {MEASURE}'s capacity"

    def reading(self) -> str:
        """Say what the rate is a share of, as each measurement finds it anew."""
        return f"Just before, {MEASURE} did about {self.rate / self.share:,.0f} a second." if self.rate else ""

    def table(self) -> Table:
        """Return a row for each subject."""
        rows = [
            [
                name,
                number(each.p50),
                number(each.p99),
                shown(each.p99_ratio),
                number(each.cpu, 1),
                shown(each.cpu_ratio),
            ]
            for name, each in self.subjects.items()
        ]
        head = ["subject", "p50 ms", "p99 ms", "ratio of p99", "CPU us a request", "ratio of CPU"]
        title = f"json-tls at {self.rate:,.0f} requests a second, {self.share:.0%} of what {MEASURE} can do"
        return Table(f"{title}, {self.connections} connections", head, rows)


def capacity(plan: Plan) -> float:
    """Measure the requests a second of which the shares are taken; raises MeasurementError."""
    subject = next(each for each in SUBJECTS if each.name == MEASURE)
    load = load_of(plan, CONNECTIONS, tls=True)
    plan.tell(f"the capacity of {MEASURE}", START)
    with started(subject, plan, "json-tls", plan.pairs[KEY]) as run:
        run.resume()
        found = [burst(run, load, PATHS, BODY, plan.load_cpus).rps for _ in range(PROBES)]
    plan.tell(f"the capacity of {MEASURE}", PROBES * load.cost)
    return statistics.median(found)


def _turns(plan: Plan, share: float) -> Turns:
    plan = plan.of("json-tls")
    load = replace(load_of(plan, CONNECTIONS, tls=True), seconds=SECONDS)
    return Turns(plan, "json-tls", f"{share:.0%} of {MEASURE}'s capacity", load.cost, KEY)


def measure(plan: Plan, share: float) -> list[Measurement]:
    """Find the capacity, then measure at that share of it."""
    turns = _turns(plan, share)
    try:
        rate = round(capacity(plan) * share, -2)
    except MeasurementError as error:
        return [Share(errors={MEASURE: str(error)}, share=share, rate=0, connections=CONNECTIONS, subjects={})]
    load = Load(CONNECTIONS, SECONDS, load_of(plan, CONNECTIONS, tls=True).warm, rate)

    def one(run: Running) -> Burst:
        return burst(run, load, PATHS, BODY, plan.load_cpus)

    taken = turns.take(one)
    return [
        Share(
            command=" ".join(load.command(["URL ..."])),
            errors=taken.errors,
            retaken=taken.retaken,
            disturbed=taken.disturbed,
            share=share,
            rate=rate,
            connections=CONNECTIONS,
            subjects=rates(turns.plan, taken.figures, lambda each: each.rps),
        )
    ]


def _cost(plan: Plan, share: float) -> float:
    return START + PROBES * load_of(plan, CONNECTIONS, tls=True).cost + _turns(plan, share).cost


RESULTS = (Steady, Share)
STEPS = tuple(
    Step(
        f"steady-{share * 100:.0f}", partial(measure, share=share), partial(_cost, share=share), full=share != SHARES[0]
    )
    for share in SHARES
)

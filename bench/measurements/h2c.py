"""The arena's json-h2c: HTTP/2 in cleartext, many streams on each connection."""

import statistics
from functools import partial

import msgspec

from bench import oracle
from bench.generators import Streams, h2load_streams, parse_h2load_streams
from bench.measurements.base import Measurement, Step, Table
from bench.plan import Plan
from bench.processes import Running, loaded
from bench.stats import Ratio, shown
from bench.turns import Turns, against_first
from bench.warm import AROUND

STREAMS = 32
WARM, SECONDS = 1, 3


class StreamRate(msgspec.Struct):
    """What h2load measured of a subject: medians of its bursts, latencies in milliseconds, bytes a response."""

    rps: float
    mean: float
    longest: float
    bytes: float
    ratio: Ratio | None
    bursts: list[Streams]


class H2c(Measurement, tag="h2c"):
    """The arena's mix on STREAMS streams of each connection."""

    connections: int
    subjects: dict[str, StreamRate]

    def table(self) -> Table:
        """Return a row for each subject."""
        rows = [
            [name, f"{each.rps:.0f}", shown(each.ratio), f"{each.mean:.2f}", f"{each.longest:.2f}"]
            for name, each in self.subjects.items()
        ]
        head = ["subject", "rps", "ratio of rps", "mean ms", "longest ms"]
        return Table(f"json-h2c, {self.connections} connections of {STREAMS} streams", head, rows)


def _turns(plan: Plan, connections: int) -> Turns:
    # hypercorn responds to nothing in that time if there are a thousand connections.
    plan = plan.of("json-h2c", ("hypercorn",) if connections >= 1000 else ())
    return Turns(plan, "json-h2c", f"json-h2c, {connections} connections", WARM + SECONDS + AROUND)


def measure(plan: Plan, connections: int) -> list[Measurement]:
    """Measure the rate at a number of connections."""
    turns = _turns(plan, connections)

    def one(run: Running) -> Streams:
        urls = [f"{run.url}/json/{count}?m={multiplier}" for count, multiplier in oracle.MIX]
        command = h2load_streams(urls, connections, STREAMS, SECONDS, WARM)
        return parse_h2load_streams(loaded(command, plan.load_cpus, turns.seconds + 60))

    taken = turns.take(one)
    compared = against_first(turns.plan, {name: [each.rps for each in runs] for name, runs in taken.figures.items()})
    subjects = {
        name: StreamRate(
            rps=statistics.median(each.rps for each in bursts),
            mean=statistics.median(each.mean for each in bursts),
            longest=statistics.median(each.longest for each in bursts),
            bytes=statistics.median(each.bytes_a_response for each in bursts),
            ratio=compared[name],
            bursts=bursts,
        )
        for name, bursts in taken.figures.items()
    }
    return [
        H2c(
            command=" ".join(h2load_streams(["URL ..."], connections, STREAMS, SECONDS, WARM)),
            errors=taken.errors,
            retaken=taken.retaken,
            disturbed=taken.disturbed,
            connections=connections,
            subjects=subjects,
        )
    ]


def _cost(plan: Plan, connections: int) -> float:
    return _turns(plan, connections).cost


RESULTS = (H2c,)
STEPS = tuple(
    Step(
        f"json-h2c-{connections}",
        partial(measure, connections=connections),
        partial(_cost, connections=connections),
    )
    for connections in (64, 1024)
)

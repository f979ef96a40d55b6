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
from bench.turns import against_first, subjects_in_turn

STREAMS = 32
HEADLINE = 64
"""The number of connections in `make bench`, too."""


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


def measure(plan: Plan, connections: int) -> list[Measurement]:
    """Measure the rate at a number of connections."""
    plan = plan.of("json-h2c")
    seconds = 5 * plan.seconds

    def burst(run: Running) -> Streams:
        urls = [f"{run.url}/json/{count}?m={multiplier}" for count, multiplier in oracle.MIX]
        command = h2load_streams(urls, connections, STREAMS, seconds)
        return parse_h2load_streams(loaded(command, plan.load_cpus, seconds + 60))

    series, errors = subjects_in_turn(plan, "json-h2c", None, f"json-h2c, {connections} connections", burst)
    compared = against_first(plan, {name: [each.rps for each in bursts] for name, bursts in series.items()})
    subjects = {
        name: StreamRate(
            rps=statistics.median(each.rps for each in bursts),
            mean=statistics.median(each.mean for each in bursts),
            longest=statistics.median(each.longest for each in bursts),
            bytes=statistics.median(each.bytes_a_response for each in bursts),
            ratio=compared[name],
            bursts=bursts,
        )
        for name, bursts in series.items()
    }
    command = " ".join(h2load_streams(["URL ..."], connections, STREAMS, seconds))
    return [H2c(command=command, errors=errors, connections=connections, subjects=subjects)]


RESULTS = (H2c,)
STEPS = tuple(
    Step(f"json-h2c-{connections}", partial(measure, connections=connections), full=connections != HEADLINE)
    for connections in (64, 1024)
)

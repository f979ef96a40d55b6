"""The arena's json-comp: how many compressed responses a second, and how small."""

from functools import partial

from bench import oracle
from bench.generators import Burst
from bench.measurements.base import Aim, Measurement, Rate, Step, Table, inverse, number, rates
from bench.measurements.throughput import connections
from bench.plan import Plan
from bench.processes import OFFER, Running
from bench.stats import shown
from bench.turns import Turns
from bench.warm import Load, burst, warm_up

COUNTS = (25, 40, 50)
"""Those of the arena's mix that json-comp requests."""
PATHS = [f"/json/{count}?m={multiplier}" for count, multiplier in oracle.MIX if count in COUNTS]
HEADLINE = 8
"""Connections of one worker of 64, if the arena opens 512."""


class Compressed(Measurement, tag="compressed"):
    """Rates and bytes; `of` is json-comp, or compressors: this service with each compressor that was considered."""

    of: str
    connections: int
    subjects: dict[str, Rate]

    def table(self) -> Table:
        """Return a row for each subject."""
        rows = [
            [name, f"{each.rps:.0f}", f"{each.bytes:.0f}", shown(each.ratio), number(each.cpu, 1)]
            for name, each in self.subjects.items()
        ]
        head = ["subject", "rps", "bytes a response", "ratio of rps / bytes^2", "CPU us a request"]
        return Table(f"{self.of}, {connections(self.connections)}: the arena's score", head, rows)

    def aims(self) -> list[Aim]:
        """Compare this service's score with that of uvicorn's arena entry."""
        if (self.of, self.connections) != ("json-comp", HEADLINE):
            return []
        reached = inverse(self.subjects, "uvicorn-zlib")
        what = f"json-comp, {HEADLINE} connections, score over uvicorn's with zlib"
        return [Aim(what, 2.5, reached)] if reached else []


def _load(plan: Plan, number: int) -> Load:
    options = ("-H", f"Accept-Encoding: {OFFER}")
    return Load(number, plan.seconds, warm_up(number, tls=False), options=options)


def _turns(plan: Plan, of: str, number: int) -> Turns:
    return Turns(plan.of(of), "json-comp", f"{of}, {connections(number)}", _load(plan, number).cost)


def measure(plan: Plan, of: str, number: int) -> list[Measurement]:
    """Measure the rate over the square of the bytes a response, headers among them."""
    turns, load = _turns(plan, of, number), _load(plan, number)

    def one(run: Running) -> Burst:
        return burst(run, load, PATHS, 1000, plan.load_cpus)  # the bytes of a body vary with the compressor

    taken = turns.take(one)
    return [
        Compressed(
            command=" ".join(load.command(["URL ..."])),
            errors=taken.errors,
            retaken=taken.retaken,
            disturbed=taken.disturbed,
            of=of,
            connections=number,
            subjects=rates(turns.plan, taken.figures, lambda each: each.rps / each.bytes_a_response**2),
        )
    ]


def _cost(plan: Plan, of: str, number: int) -> float:
    return _turns(plan, of, number).cost


RESULTS = (Compressed,)
STEPS = tuple(
    Step(
        f"{of}-{number}",
        partial(measure, of=of, number=number),
        partial(_cost, of=of, number=number),
        full=(of, number) != ("json-comp", HEADLINE),
    )
    for of, numbers in (("json-comp", (8, 64, 512)), ("compressors", (8, 64, 256)))
    for number in numbers
)

"""What each choice in the code brings: this service beside itself without it (bench/tried.md)."""

from functools import partial

from bench.generators import Burst
from bench.measurements.base import Measurement, Rate, Step, Table, rate_table, rates
from bench.measurements.throughput import BODY, KEY, PATHS, connections, load_of
from bench.plan import Plan
from bench.processes import Running
from bench.turns import Turns
from bench.warm import burst


class Choices(Measurement, tag="choices"):
    """The arena's mix over TLS."""

    connections: int
    subjects: dict[str, Rate]

    def table(self) -> Table:
        """Return a row for each choice."""
        return rate_table(f"Choices in the code, json-tls, {connections(self.connections)}", self.subjects)


def _turns(plan: Plan, number: int) -> Turns:
    seconds = load_of(plan, number, tls=True).cost
    return Turns(plan.of("choices"), "json-tls", f"choices, {connections(number)}", seconds, KEY)


def measure(plan: Plan, number: int) -> list[Measurement]:
    """Measure this service with each choice, and without it."""
    turns, load = _turns(plan, number), load_of(plan, number, tls=True)

    def one(run: Running) -> Burst:
        return burst(run, load, PATHS, BODY, plan.load_cpus)

    taken = turns.take(one)
    return [
        Choices(
            command=" ".join(load.command(["URL ..."])),
            errors=taken.errors,
            retaken=taken.retaken,
            disturbed=taken.disturbed,
            connections=number,
            subjects=rates(turns.plan, taken.figures, lambda each: each.rps),
        )
    ]


def _cost(plan: Plan, number: int) -> float:
    return _turns(plan, number).cost


RESULTS = (Choices,)
STEPS = tuple(
    Step(f"choices-{number}", partial(measure, number=number), partial(_cost, number=number)) for number in (8, 64, 256)
)

"""The rate of this service by the number of items requested."""

import statistics

from bench import oracle
from bench.measurements.base import Measurement, Step, Table
from bench.measurements.throughput import KEY, load_of
from bench.plan import Plan
from bench.processes import Running
from bench.subjects import SERVICE
from bench.turns import Turns
from bench.warm import burst

CONNECTIONS = 64


class GrowthByCount(Measurement, tag="growth-by-count"):
    """Requests a second over TLS, by count."""

    rates: dict[int, float]

    def table(self) -> Table:
        """Return a row for each count."""
        rows = [[str(count), f"{rps:.1f}"] for count, rps in self.rates.items()]
        return Table("This service by count", ["count", "rps"], rows)


def _turns(plan: Plan) -> Turns:
    seconds = load_of(plan, CONNECTIONS, tls=True).cost * len(oracle.MIX)
    return Turns(plan.of_service(), "json-tls", "rate by count", seconds, KEY)


def measure(plan: Plan) -> list[Measurement]:
    """Measure each of the mix's counts, one count a burst, in turn."""
    turns, load = _turns(plan), load_of(plan, CONNECTIONS, tls=True)

    def bursts(run: Running) -> list[float]:
        return [
            burst(run, load, [f"/json/{count}?m={multiplier}"], len(oracle.body(count, multiplier)), plan.load_cpus).rps
            for count, multiplier in oracle.MIX
        ]

    taken = turns.take(bursts)
    rounds = taken.figures.get(SERVICE, [])
    rates = {
        count: statistics.median(each[index] for each in rounds)
        for index, (count, _) in enumerate(oracle.MIX)
        if rounds
    }
    return [GrowthByCount(errors=taken.errors, retaken=taken.retaken, disturbed=taken.disturbed, rates=rates)]


RESULTS = (GrowthByCount,)
STEPS = (Step("growth-by-count", measure, lambda plan: _turns(plan).cost),)

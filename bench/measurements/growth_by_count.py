"""The rate of this service by the number of items requested."""

import statistics

from bench import oracle
from bench.generators import parse_wrk, wrk
from bench.measurements.base import Measurement, Step, Table
from bench.plan import Plan
from bench.processes import Running, loaded
from bench.subjects import SERVICE
from bench.turns import subjects_in_turn

CONNECTIONS = 256


class GrowthByCount(Measurement, tag="growth-by-count"):
    """Requests a second over TLS, by count."""

    rates: dict[int, float]

    def table(self) -> Table:
        """Return a row for each count."""
        rows = [[str(count), f"{rps:.1f}"] for count, rps in self.rates.items()]
        return Table("This service by count", ["count", "rps"], rows)


def measure(plan: Plan) -> list[Measurement]:
    """Measure each of the mix's counts, one count a burst, in turn."""
    counts = [count for count, _ in oracle.MIX]

    def bursts(run: Running) -> list[float]:
        commands = [wrk(run.url, CONNECTIONS, plan.seconds, counts=str(count)) for count in counts]
        return [parse_wrk(loaded(command, plan.load_cpus, plan.seconds + 30)).rps for command in commands]

    series, errors = subjects_in_turn(plan.of_service(), "json-tls", plan.pairs["RSA-2048"], "rate by count", bursts)
    rounds = series.get(SERVICE, [])
    rates = {count: statistics.median(each[index] for each in rounds) for index, count in enumerate(counts) if rounds}
    return [GrowthByCount(errors=errors, rates=rates)]


RESULTS = (GrowthByCount,)
STEPS = (Step("growth-by-count", measure, full=True),)

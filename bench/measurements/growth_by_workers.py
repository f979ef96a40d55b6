"""The rate of this service by its number of workers."""

import statistics
from dataclasses import replace

from bench.measurements.base import Measurement, Step, Table
from bench.measurements.throughput import BODY, KEY, PATHS, load_of
from bench.plan import Plan
from bench.processes import Running, started
from bench.subjects import SUBJECTS
from bench.turns import START, take_turns
from bench.warm import burst

CONNECTIONS = 256


class GrowthByWorkers(Measurement, tag="growth-by-workers"):
    """The rate over TLS by workers; that of one worker is 1."""

    ratios: dict[int, float]

    def table(self) -> Table:
        """Return a row for each number of workers."""
        by = "workers, on CPUs shared with the load"
        rows = [[str(workers), f"{ratio:.1f}"] for workers, ratio in self.ratios.items()]
        return Table(f"This service by {by}", [by, "rate, that of one worker = 1"], rows)


def _numbers(plan: Plan) -> list[int]:
    return [1 << power for power in range(len(plan.cpus).bit_length()) if 1 << power <= len(plan.cpus)]


def measure(plan: Plan) -> list[Measurement]:
    """Measure 1, 2, 4, ... workers, up to the number of CPUs.

    Workers and load share all CPUs: on a small machine there would be one worker otherwise.
    """
    shared = replace(plan, server_cpus=plan.cpus, load_cpus=plan.cpus)
    names = {number: f"{number} worker{'s' if number > 1 else ''}" for number in _numbers(plan)}
    load = load_of(plan, CONNECTIONS, tls=True)

    def one(run: Running) -> float:
        return burst(run, load, PATHS, BODY, plan.cpus).rps

    pair = plan.pairs[KEY]
    servers = {name: started(SUBJECTS[0], shared, "json-tls", pair, number) for number, name in names.items()}
    taken = take_turns(shared, "rate by workers", load.cost, servers, one)
    rates = taken.figures
    alone = rates.get(names[1])
    ratios = {
        number: statistics.median(a / b for a, b in zip(rates[name], alone, strict=True))
        for number, name in names.items()
        if alone and name in rates
    }
    return [GrowthByWorkers(errors=taken.errors, retaken=taken.retaken, disturbed=taken.disturbed, ratios=ratios)]


def _cost(plan: Plan) -> float:
    return len(_numbers(plan)) * (START + plan.rounds * load_of(plan, CONNECTIONS, tls=True).cost)


RESULTS = (GrowthByWorkers,)
STEPS = (Step("growth-by-workers", measure, _cost),)

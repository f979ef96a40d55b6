"""The rate of this service by its number of workers."""

import statistics
from dataclasses import replace

from bench.generators import parse_wrk, wrk
from bench.measurements.base import Measurement, Step, Table
from bench.plan import Plan
from bench.processes import Running, loaded, started
from bench.subjects import SUBJECTS
from bench.turns import take_turns

CONNECTIONS = 256


class GrowthByWorkers(Measurement, tag="growth-by-workers"):
    """The rate over TLS by workers; that of one worker is 1."""

    ratios: dict[int, float]

    def table(self) -> Table:
        """Return a row for each number of workers."""
        by = "workers, on CPUs shared with the load"
        rows = [[str(workers), f"{ratio:.1f}"] for workers, ratio in self.ratios.items()]
        return Table(f"This service by {by}", [by, "rate, that of one worker = 1"], rows)


def measure(plan: Plan) -> list[Measurement]:
    """Measure 1, 2, 4, ... workers, up to the number of CPUs.

    Workers and load share all CPUs: on a small machine there would be one worker otherwise.
    """
    cpus = plan.server_cpus | plan.load_cpus
    shared = replace(plan, server_cpus=cpus, load_cpus=cpus)
    numbers = [1 << power for power in range(len(cpus).bit_length()) if 1 << power <= len(cpus)]
    names = {number: f"{number} worker{'s' if number > 1 else ''}" for number in numbers}

    def burst(run: Running) -> float:
        return parse_wrk(loaded(wrk(run.url, CONNECTIONS, plan.seconds), cpus, plan.seconds + 30)).rps

    pair = plan.pairs["RSA-2048"]
    servers = {name: started(SUBJECTS[0], shared, "json-tls", pair, number) for number, name in names.items()}
    rates, errors = take_turns(shared, "rate by workers", servers, burst)
    alone = rates.get(names[1])
    ratios = {
        number: statistics.median(a / b for a, b in zip(rates[name], alone, strict=True))
        for number, name in names.items()
        if alone and name in rates
    }
    return [GrowthByWorkers(errors=errors, ratios=ratios)]


RESULTS = (GrowthByWorkers,)
STEPS = (Step("growth-by-workers", measure, full=True),)

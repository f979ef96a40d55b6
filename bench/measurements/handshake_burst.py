"""Many TLS connections at once."""

import statistics
from functools import partial

import msgspec

from bench import generators, oracle
from bench.generators import h2load, parse_h2load
from bench.measurements.base import Aim, Measurement, Step, Table
from bench.plan import KeyType, Plan
from bench.processes import Running, loaded
from bench.stats import Ratio, shown
from bench.turns import Turns, against_first

REQUESTS = 4
"""On each connection."""


class Duration(msgspec.Struct):
    """Seconds from the first connection to the last response: the median of the bursts, and its ratio to this service's."""

    seconds: float
    ratio: Ratio | None
    bursts: list[generators.HandshakeBurst]


class HandshakeBurst(Measurement, tag="handshake-burst"):
    """The time that a number of handshakes and REQUESTS on each connection take."""

    connections: int
    key: KeyType
    subjects: dict[str, Duration]

    def table(self) -> Table:
        """Return a row for each subject."""
        rows = [[name, f"{each.seconds:.3f}", shown(each.ratio)] for name, each in self.subjects.items()]
        head = ["subject", "seconds to the last response", "ratio of seconds"]
        return Table(f"Handshake burst: {self.connections} TLS connections at once, {self.key}", head, rows)

    def aims(self) -> list[Aim]:
        """Compare the larger burst with uvicorn's."""
        uvicorn = self.subjects.get("uvicorn")
        if (self.connections, self.key) != (4096, "RSA-2048") or not uvicorn or not uvicorn.ratio:
            return []
        reached = 1 / uvicorn.ratio.median
        return [Aim("handshake burst of 4,096, time over uvicorn's", 0.6, reached, at_most=True)]


def _turns(plan: Plan, connections: int, key: KeyType) -> Turns:
    seconds = connections * 0.0014  # about what most take
    return Turns(plan.of("json-tls"), "json-tls", f"handshake burst of {connections}, {key}", seconds, key)


def measure(plan: Plan, connections: int, key: KeyType) -> list[Measurement]:
    """Open so many connections at once, with that type of key."""
    turns = _turns(plan, connections, key)
    requests = connections * REQUESTS

    def one(run: Running) -> generators.HandshakeBurst:
        output = loaded(h2load(f"{run.url}/json/10?m=2", connections, requests), plan.load_cpus, 120)
        return parse_h2load(output, requests, len(oracle.body(10, 2)))

    taken = turns.take(one)
    series = {name: [each.seconds for each in bursts] for name, bursts in taken.figures.items()}
    compared = against_first(turns.plan, series)
    return [
        HandshakeBurst(
            command=" ".join(h2load("URL", connections, requests)),
            errors=taken.errors,
            retaken=taken.retaken,
            disturbed=taken.disturbed,
            connections=connections,
            key=key,
            subjects={
                name: Duration(statistics.median(series[name]), compared[name], bursts)
                for name, bursts in taken.figures.items()
            },
        )
    ]


def _cost(plan: Plan, connections: int, key: KeyType) -> float:
    return _turns(plan, connections, key).cost


BURSTS: tuple[tuple[int, KeyType], ...] = ((1024, "RSA-2048"), (1024, "P-256"), (4096, "RSA-2048"))
RESULTS = (HandshakeBurst,)
STEPS = tuple(
    Step(
        f"handshake-burst-{connections}-{key}",
        partial(measure, connections=connections, key=key),
        partial(_cost, connections=connections, key=key),
    )
    for connections, key in BURSTS
)

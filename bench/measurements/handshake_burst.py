"""Many TLS connections at once."""

import statistics
from functools import partial

import msgspec

from bench import generators, oracle
from bench.generators import h2load, parse_h2load
from bench.measurements.base import Aim, Measurement, Step, Table
from bench.plan import KEY_TYPES, KeyType, Plan
from bench.processes import Running, loaded
from bench.stats import Ratio, shown
from bench.turns import against_first, subjects_in_turn

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
        reached = f"{1 / uvicorn.ratio.median:.2f}"
        return [Aim("handshake burst of 4,096, time over uvicorn's", "0.6 at most", reached)]


def measure(plan: Plan, connections: int, key: KeyType) -> list[Measurement]:
    """Open so many connections at once, with that type of key."""
    plan = plan.of("json-tls")
    requests = connections * REQUESTS

    def burst(run: Running) -> generators.HandshakeBurst:
        output = loaded(h2load(f"{run.url}/json/10?m=2", connections, requests), plan.load_cpus, 120)
        return parse_h2load(output, requests, len(oracle.body(10, 2)))

    what = f"handshake burst of {connections}, {key}"
    series, errors = subjects_in_turn(plan, "json-tls", plan.pairs[key], what, burst)
    compared = against_first(plan, {name: [each.seconds for each in bursts] for name, bursts in series.items()})
    subjects = {
        name: Duration(statistics.median(each.seconds for each in bursts), compared[name], bursts)
        for name, bursts in series.items()
    }
    command = " ".join(h2load("URL", connections, requests))
    return [HandshakeBurst(command=command, errors=errors, connections=connections, key=key, subjects=subjects)]


RESULTS = (HandshakeBurst,)
STEPS = tuple(
    Step(
        f"handshake-burst-{connections}-{key}",
        partial(measure, connections=connections, key=key),
        full=(connections, key) != (1024, "RSA-2048"),
    )
    for connections in (1024, 4096)
    for key in KEY_TYPES
)

"""Requests a second and latencies at a number of connections, over plaintext and TLS, and what TLS costs of the rate."""

from functools import partial

from bench.generators import Burst, parse_wrk, wrk
from bench.measurements.base import Aim, Measurement, Rate, Step, Table, inverse, rates
from bench.plan import Pair, Plan
from bench.processes import Running, loaded
from bench.stats import shown
from bench.subjects import SERVICE
from bench.turns import subjects_in_turn

HEADLINE = 256
"""The number of connections that the README and the aims are about."""


class Throughput(Measurement, tag="throughput"):
    """The arena's mix under json or json-tls."""

    profile: str
    connections: int
    subjects: dict[str, Rate]

    def table(self) -> Table:
        """Return a row for each subject."""
        rows = [
            [name, f"{each.rps:.0f}", shown(each.ratio), f"{each.p50:.2f}", f"{each.p99:.2f}"]
            for name, each in self.subjects.items()
        ]
        head = ["subject", "rps", "ratio of rps", "p50 ms", "p99 ms"]
        return Table(f"{self.profile}, {self.connections} connections", head, rows)

    def aims(self) -> list[Aim]:
        """Compare this service with four others, over TLS."""
        if (self.profile, self.connections) != ("json-tls", HEADLINE):
            return []
        aimed = (("uvicorn", "3"), ("fastpysgi", "2"), ("nginx-files", "0.8"), ("granian-ceiling", "0.8"))
        return [
            Aim(f"json-tls, {HEADLINE} connections, rps over {name}'s", aim, f"{reached:.2f}")
            for name, aim in aimed
            if (reached := inverse(self.subjects, name))
        ]


class TlsOverhead(Measurement, tag="tls-overhead"):
    """The share of each subject's rate that TLS takes. It compares medians of two measurements, not bursts."""

    connections: int
    shares: dict[str, float]

    def table(self) -> Table:
        """Return a row for each subject."""
        rows = [[name, f"{share:.0%}"] for name, share in self.shares.items()]
        return Table(f"TLS overhead, {self.connections} connections", ["subject", "share of the rate"], rows)

    def aims(self) -> list[Aim]:
        """Bound this service's."""
        if self.connections != HEADLINE or SERVICE not in self.shares:
            return []
        return [Aim("TLS overhead, share of the rate", "25% at most", f"{self.shares[SERVICE]:.0%}")]


def measure(plan: Plan, connections: int) -> list[Measurement]:
    """Measure over plaintext, then over TLS."""
    plain = _throughput(plan.of("json"), "json", None, connections)
    encrypted = _throughput(plan.of("json-tls"), "json-tls", plan.pairs["RSA-2048"], connections)
    shares = {
        name: 1 - encrypted.subjects[name].rps / each.rps
        for name, each in plain.subjects.items()
        if name in encrypted.subjects
    }
    return [plain, encrypted, TlsOverhead(connections=connections, shares=shares)]


def _throughput(plan: Plan, profile: str, pair: Pair | None, connections: int) -> Throughput:
    # Thousands of TLS handshakes take seconds before there is a rate to measure.
    seconds = plan.seconds * (1 if connections < 1000 else 20 if pair else 8)

    def burst(run: Running) -> Burst:
        return parse_wrk(loaded(wrk(run.url, connections, seconds), plan.load_cpus, seconds + 30))

    bursts, errors = subjects_in_turn(plan, profile, pair, f"{profile}, {connections} connections", burst)
    return Throughput(
        command=" ".join(wrk("URL", connections, seconds)),
        errors=errors,
        profile=profile,
        connections=connections,
        subjects=rates(plan, bursts, lambda each: each.rps),
    )


RESULTS = (Throughput, TlsOverhead)
STEPS = tuple(
    Step(f"throughput-{connections}", partial(measure, connections=connections), full=connections != HEADLINE)
    for connections in (1, 64, 256, 4096)
)

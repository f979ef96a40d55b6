"""Requests a second, latencies and CPU time at a number of connections, over TLS and plaintext."""

from functools import partial

from bench import oracle
from bench.generators import Burst
from bench.measurements.base import Aim, Measurement, Rate, Step, Table, inverse, rate_table, rates
from bench.plan import KeyType, Plan
from bench.processes import Running
from bench.turns import Turns
from bench.warm import Load, burst, warm_up

HEADLINE = 64
"""The number of connections that the aims are about: one worker's of the arena's."""
KEY: KeyType = "RSA-2048"
PATHS = [f"/json/{count}?m={multiplier}" for count, multiplier in oracle.MIX]
BODY = sum(len(oracle.body(*each)) for each in oracle.MIX) / len(oracle.MIX)
TOO_SLOW = ("hypercorn",)
"""Not measured at 1,000 connections or more, as its handshakes take longer than the others' warm-up."""


class Throughput(Measurement, tag="throughput"):
    """The arena's mix under json or json-tls."""

    profile: str
    connections: int
    subjects: dict[str, Rate]

    def table(self) -> Table:
        """Return a row for each subject."""
        return rate_table(f"{self.profile}, {connections(self.connections)}", self.subjects)

    def aims(self) -> list[Aim]:
        """Compare this service with others, over TLS."""
        if (self.profile, self.connections) != ("json-tls", HEADLINE):
            return []
        return [
            Aim(f"json-tls, {HEADLINE} connections, rps over {name}'s", aim, f"{reached:.2f}")
            for name, aim in (("uvicorn", "2.6"), ("fastpysgi", "1.5"))
            if (reached := inverse(self.subjects, name))
        ]


class TlsOverhead(Measurement, tag="tls-overhead"):
    """The share of each subject's rate that TLS takes; in results before November 2026 alone."""

    connections: int
    shares: dict[str, float]

    def table(self) -> Table:
        """Return a row for each subject."""
        rows = [[name, f"{share:.0%}"] for name, share in self.shares.items()]
        return Table(f"TLS overhead, {connections(self.connections)}", ["subject", "share of the rate"], rows)


def connections(number: int) -> str:
    """Write a number of connections."""
    return f"{number:,} connection{'' if number == 1 else 's'}"


def load_of(plan: Plan, number: int, *, tls: bool) -> Load:
    """Load with so many connections, which have time to open before it counts."""
    return Load(number, plan.seconds * (2 if number >= 1000 else 1), warm_up(number, tls=tls))


def _turns(plan: Plan, profile: str, number: int) -> Turns:
    plan = plan.of(profile, TOO_SLOW if number >= 1000 else ())
    tls = profile == "json-tls"
    load = load_of(plan, number, tls=tls)
    return Turns(plan, profile, f"{profile}, {connections(number)}", load.cost, KEY if tls else None)


def measure(plan: Plan, profile: str, number: int) -> list[Measurement]:
    """Measure the arena's mix."""
    turns = _turns(plan, profile, number)
    load = load_of(plan, number, tls=turns.key is not None)

    def one(run: Running) -> Burst:
        return burst(run, load, PATHS, BODY, plan.load_cpus)

    taken = turns.take(one)
    return [
        Throughput(
            command=" ".join(load.command(["URL ..."])),
            errors=taken.errors,
            retaken=taken.retaken,
            disturbed=taken.disturbed,
            profile=profile,
            connections=number,
            subjects=rates(turns.plan, taken.figures, lambda each: each.rps),
        )
    ]


def _cost(plan: Plan, profile: str, number: int) -> float:
    return _turns(plan, profile, number).cost


def _step(profile: str, number: int, *, full: bool) -> Step:
    which = {"profile": profile, "number": number}
    return Step(f"{profile}-{number}", partial(measure, **which), partial(_cost, **which), full)  # type: ignore[arg-type]


RESULTS = (Throughput, TlsOverhead)
STEPS = (
    *(_step("json-tls", number, full=number not in (1, 8, 64)) for number in (64, 8, 1, 16, 256, 4096)),
    *(_step("json", number, full=True) for number in (64, 8)),
)

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
SLOW = ("uvicorn", "hypercorn", "node")
"""They accept one connection in each turn of their event loop (libuv's, and uvloop's, which is made of it). Under load a
turn is as long as its requests take, so the time until all connections are open grows with the square of their number:
256 took 6.6, 2.5 and 1.5 s (node, uvicorn, hypercorn), and of 4,096 node had 866 after 15 s, uvicorn 1,264."""
SLOW_SQUARE = 8.5 / 256**2
"""Seconds by which the square of the connections is multiplied: the slowest of them has time then."""
MANY = 1000
"""From so many connections on those are not measured, since h2load, whose connections have to be open before its end, does
not end."""


class Throughput(Measurement, tag="throughput"):
    """The arena's mix under json or json-tls."""

    profile: str
    connections: int
    subjects: dict[str, Rate]

    def table(self) -> Table:
        """Return a row for each subject."""
        return rate_table(f"{self.profile}, {connections(self.connections)}", self.subjects)

    def reading(self) -> str:
        """Say who is not measured with so many."""
        if self.connections < MANY or self.subjects.keys() & SLOW:
            return ""
        return (
            f"{', '.join(SLOW)} are left out: under load they accept one connection in each turn of their event loop,"
            " so that most connections would not be open when the burst begins."
        )

    def aims(self) -> list[Aim]:
        """Compare this service with others, over TLS."""
        if (self.profile, self.connections) != ("json-tls", HEADLINE):
            return []
        return [
            Aim(f"json-tls, {HEADLINE} connections, rps over {name}'s", aim, reached)
            for name, aim in (("uvicorn", 2.6), ("fastpysgi", 1.5))
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


def load_of(plan: Plan, number: int, *, tls: bool, subject: str = "") -> Load:
    """Load with so many connections, which have time to open before it counts, at a slow subject, too."""
    slow = SLOW_SQUARE * number**2 if subject in SLOW else 0.0
    return Load(number, plan.seconds * (2 if number >= MANY else 1), max(warm_up(number, tls=tls), slow))


def _turns(plan: Plan, profile: str, number: int) -> Turns:
    plan = plan.of(profile, SLOW if number >= MANY else ())
    tls = profile == "json-tls"
    costs = [load_of(plan, number, tls=tls, subject=each.name).cost for each in plan.subjects]
    mean = sum(costs) / len(costs) if costs else 0.0
    return Turns(plan, profile, f"{profile}, {connections(number)}", mean, KEY if tls else None)


def measure(plan: Plan, profile: str, number: int) -> list[Measurement]:
    """Measure the arena's mix."""
    turns = _turns(plan, profile, number)
    tls = turns.key is not None

    def one(run: Running) -> Burst:
        return burst(run, load_of(plan, number, tls=tls, subject=run.subject.name), PATHS, BODY, plan.load_cpus)

    taken = turns.take(one)
    return [
        Throughput(
            command=" ".join(load_of(plan, number, tls=tls).command(["URL ..."])),
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

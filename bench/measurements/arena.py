"""The arena's other profiles as one worker of 64 gets them, each subject serving `app.service.arena`.

`baseline` and `limited-conn` need three forms of requests in turn and connections that end, which h2load has not: they are
wrk's. It has no warm-up. Their connections are plaintext, and open within milliseconds; a burst that does not count comes
before each that does. Their latencies are left out, as wrk adds some that it did not measure.
"""

from dataclasses import dataclass, replace
from functools import partial

from bench.generators import Burst, parse_wrk
from bench.measurements.base import Aim, Measurement, Rate, Step, Table, number, rate_table, rates
from bench.measurements.throughput import KEY, connections
from bench.plan import Plan
from bench.processes import Running, loaded
from bench.stats import shown
from bench.turns import Turns
from bench.warm import AROUND, Load, burst, warm_up

ECHOED = 10_000  # bytes
FORMS = "bench/forms.lua"


@dataclass(frozen=True)
class Profile:
    """A profile of the arena's: what h2load sends, or None if wrk sends the forms; and the ratio to uvicorn aimed at."""

    name: str
    connections: int
    path: str | None = None
    rate: float | None = None
    body: int = 1
    """Bytes of a response's body."""
    tls: bool = False
    options: tuple[str, ...] = ()
    aim: str = ""
    seconds: float = 1.0

    @property
    def step(self) -> str:
        """Its name for `--only`."""
        return f"{self.name}-{self.connections}"

    def load(self, plan: Plan) -> Load:
        """Write what h2load sends."""
        warm = warm_up(self.connections, tls=self.tls)
        return Load(self.connections, plan.seconds * self.seconds, warm, self.rate, self.options)


PROFILES = (
    *(Profile("baseline", number, aim="2" if number == 64 else "") for number in (8, 16, 64)),
    *(Profile("limited-conn", number) for number in (8, 64)),
    Profile("async", 500, "/delay/10", body=2, aim="1.5"),
    *(
        Profile("echo", number, "/echo", body=ECHOED, tls=True, aim="1.5" if number == 64 else "")
        for number in (8, 16, 64)
    ),
    Profile("latency", 16, "/baseline11?a=1&b=2", rate=160, aim="0.6", seconds=4),
)


class Arena(Measurement, tag="arena", kw_only=True):
    """Rates, latencies and CPU time under one of PROFILES; at a steady `rate` the CPU time is what counts."""

    profile: str
    connections: int
    rate: float | None = None
    aim: str = ""
    subjects: dict[str, Rate]

    @property
    def title(self) -> str:
        """What was measured."""
        steady = f", {self.rate:.0f} requests a second" if self.rate else ""
        return f"{self.profile}, {connections(self.connections)}{steady}"

    def table(self) -> Table:
        """Return a row for each subject."""
        if self.rate is None and self.profile in ("async", "echo"):
            return rate_table(self.title, self.subjects)
        if self.rate is None:
            head = ["subject", "rps", "ratio of rps", "CPU us a request"]
            rows = [
                [name, f"{each.rps:.0f}", shown(each.ratio), number(each.cpu, 1)]
                for name, each in self.subjects.items()
            ]
            return Table(self.title, head, rows)
        head = ["subject", "CPU us a request", "ratio of CPU", "p50 ms", "p99 ms"]
        rows = [
            [name, number(each.cpu, 1), shown(each.cpu_ratio), number(each.p50), number(each.p99)]
            for name, each in self.subjects.items()
        ]
        return Table(self.title, head, rows)

    def aims(self) -> list[Aim]:
        """Compare this service with uvicorn."""
        uvicorn = self.subjects.get("uvicorn")
        if not self.aim or uvicorn is None:
            return []
        is_steady = self.rate is not None
        ratio = uvicorn.cpu_ratio if is_steady else uvicorn.ratio
        what = f"{self.title}, {'CPU time a request' if is_steady else 'rps'} over uvicorn's"
        return [Aim(what, float(self.aim), 1 / ratio.median, at_most=is_steady)] if ratio else []


def _wrk(profile: Profile, seconds: str, url: str) -> list[str]:
    return ["wrk", "--latency", "-t1", f"-c{profile.connections}", f"-d{seconds}", "-s", FORMS, url, "--", profile.name]


def _by_wrk(run: Running, profile: Profile, seconds: int, cpus: set[int]) -> Burst:
    loaded(_wrk(profile, "1s", run.url), cpus, 30)
    before = run.cpu()
    figures = parse_wrk(loaded(_wrk(profile, f"{seconds}s", run.url), cpus, seconds + 30))
    return replace(figures, cpu=(run.cpu() - before) / (figures.rps * seconds) * 1e6)


def _turns(plan: Plan, profile: Profile) -> Turns:
    seconds = profile.load(plan).cost if profile.path else 2 + 2 * AROUND
    key = KEY if profile.tls else None
    return Turns(plan.of("arena"), profile.name, f"{profile.name}, {connections(profile.connections)}", seconds, key)


def measure(plan: Plan, profile: Profile) -> list[Measurement]:
    """Measure one of PROFILES."""
    turns = _turns(plan, profile)
    load = profile.load(plan)
    if path := profile.path:
        command = load.command([f"URL{path}"])
        echoed = ["-d", "FILE"] if profile.name == "echo" else []

        def one(run: Running) -> Burst:
            sent = run.place.folder / "sent"
            sent.write_bytes(b"x" * ECHOED)
            options = (*profile.options, "-d", str(sent)) if echoed else profile.options
            return burst(run, replace(load, options=options), [path], profile.body, plan.load_cpus)

    else:
        command, echoed = _wrk(profile, "1s", "URL"), []

        def one(run: Running) -> Burst:
            return _by_wrk(run, profile, 1, plan.load_cpus)

    taken = turns.take(one)
    return [
        Arena(
            command=" ".join([*command, *echoed]),
            errors=taken.errors,
            retaken=taken.retaken,
            disturbed=taken.disturbed,
            profile=profile.name,
            connections=profile.connections,
            rate=profile.rate,
            aim=profile.aim,
            subjects=rates(turns.plan, taken.figures, lambda each: each.rps),
        )
    ]


def _cost(plan: Plan, profile: Profile) -> float:
    return _turns(plan, profile).cost


RESULTS = (Arena,)
STEPS = tuple(Step(each.step, partial(measure, profile=each), partial(_cost, profile=each)) for each in PROFILES)

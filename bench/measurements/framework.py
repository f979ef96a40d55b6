"""What an application of somebody else gains: the same Starlette application on uvicorn and on this launcher."""

from bench.generators import Burst
from bench.measurements.base import Measurement, Rate, Step, Table, rates
from bench.measurements.throughput import BODY, KEY, PATHS, load_of
from bench.plan import Plan
from bench.processes import Running
from bench.stats import shown
from bench.turns import Turns
from bench.warm import burst

CONNECTIONS = 64


class Framework(Measurement, tag="framework"):
    """The arena's mix over TLS; ratios are to the first subject, uvicorn."""

    connections: int
    subjects: dict[str, Rate]

    def table(self) -> Table:
        """Return a row for each subject."""
        rows = [
            [name, f"{each.rps:.0f}", shown(each.ratio), _us(each), f"{each.p50:.2f}", f"{each.p99:.2f}"]
            for name, each in self.subjects.items()
        ]
        head = ["subject", "rps", "ratio of rps", "us a request", "p50 ms", "p99 ms"]
        return Table(f"The same Starlette application over TLS, {self.connections} connections", head, rows)

    def reading(self) -> str:
        """Say what it takes on each server, if it was measured on uvicorn and on this launcher."""
        uvicorn, loop, inline = (self.subjects.get(f"starlette-{name}") for name in ("uvicorn", "loop", "inline"))
        if not (uvicorn and loop and inline and loop.ratio and inline.ratio):
            return ""
        return (
            f"The same Starlette application, over TLS at {self.connections} connections, takes {_us(uvicorn)} us a"
            f" request on uvicorn, {_us(loop)} us on this launcher ({loop.ratio.median:.2f} times the rate) and"
            f" {_us(inline)} us if it runs inline there ({inline.ratio.median:.2f} times). The difference is the servers':"
            f" the more an application does itself, the less it matters."
        )


def _us(rate: Rate) -> str:
    """Write the time that a request takes of the one CPU that a subject has."""
    return f"{1e6 / rate.rps:.0f}"


def _turns(plan: Plan) -> Turns:
    what = f"a Starlette application, {CONNECTIONS} connections"
    return Turns(plan.of("framework"), "json-tls", what, load_of(plan, CONNECTIONS, tls=True).cost, KEY)


def measure(plan: Plan) -> list[Measurement]:
    """Measure the rates."""
    turns, load = _turns(plan), load_of(plan, CONNECTIONS, tls=True)

    def one(run: Running) -> Burst:
        return burst(run, load, PATHS, BODY, plan.load_cpus)

    taken = turns.take(one)
    return [
        Framework(
            command=" ".join(load.command(["URL ..."])),
            errors=taken.errors,
            retaken=taken.retaken,
            disturbed=taken.disturbed,
            connections=CONNECTIONS,
            subjects=rates(turns.plan, taken.figures, lambda each: each.rps),
        )
    ]


RESULTS = (Framework,)
STEPS = (Step("framework", measure, lambda plan: _turns(plan).cost, full=False),)

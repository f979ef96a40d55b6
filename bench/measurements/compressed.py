"""The arena's json-comp: how many compressed responses a second, and how small."""

import shlex
from functools import partial

from bench.generators import Burst, parse_wrk, wrk
from bench.measurements.base import Aim, Measurement, Rate, Step, Table, inverse, rates
from bench.plan import Plan
from bench.processes import OFFER, Running, loaded
from bench.stats import shown
from bench.turns import subjects_in_turn

CONNECTIONS = 512
COUNTS = "25 40 50"
"""Those of the arena's mix that json-comp requests."""


class Compressed(Measurement, tag="compressed"):
    """Rates and bytes; `of` is json-comp, or compressors: this service with each compressor that was considered."""

    of: str
    connections: int
    subjects: dict[str, Rate]

    def table(self) -> Table:
        """Return a row for each subject."""
        rows = [
            [name, f"{each.rps:.0f}", f"{each.bytes:.0f}", shown(each.ratio)] for name, each in self.subjects.items()
        ]
        head = ["subject", "rps", "bytes a response", "ratio of rps / bytes^2"]
        return Table(f"{self.of}, {self.connections} connections: the arena's score", head, rows)

    def aims(self) -> list[Aim]:
        """Compare this service's score with that of uvicorn's arena entry."""
        if self.of != "json-comp" or not (reached := inverse(self.subjects, "uvicorn-zlib")):
            return []
        return [Aim("json-comp, score over uvicorn's with zlib", "2", f"{reached:.2f}")]


def measure(plan: Plan, of: str) -> list[Measurement]:
    """Measure the rate over the square of the bytes a response, headers among them."""
    plan = plan.of(of)

    def burst(run: Running) -> Burst:
        command = wrk(run.url, CONNECTIONS, plan.seconds, offer=OFFER, counts=COUNTS)
        return parse_wrk(loaded(command, plan.load_cpus, plan.seconds + 30))

    bursts, errors = subjects_in_turn(plan, "json-comp", None, f"{of}, {CONNECTIONS} connections", burst)
    return [
        Compressed(
            command=shlex.join(wrk("URL", CONNECTIONS, plan.seconds, offer=OFFER, counts=COUNTS)),
            errors=errors,
            of=of,
            connections=CONNECTIONS,
            subjects=rates(plan, bursts, lambda each: each.rps / each.bytes_a_response**2),
        )
    ]


RESULTS = (Compressed,)
STEPS = (
    Step("json-comp", partial(measure, of="json-comp")),
    Step("compressors", partial(measure, of="compressors"), full=True),
)

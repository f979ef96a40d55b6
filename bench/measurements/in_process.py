"""What a request costs in process; `make bench-app` measures the same without the rest."""

from bench import app
from bench.measurements.base import Measurement, Step, Table
from bench.plan import Plan

SECONDS = 3.0


class InProcess(Measurement, tag="in-process"):
    """The cost of a request, and of msgspec's encode alone."""

    cost: app.Cost

    def table(self) -> Table:
        """Return both costs and their ratio."""
        cost = self.cost
        rows = [
            ["encode alone", f"{cost.encode:.2f}"],
            ["request", f"{cost.request:.2f}"],
            ["ratio", f"{cost.ratio:.2f} ({cost.low:.2f} to {cost.high:.2f})"],
        ]
        return Table("A request in process", ["", "us"], rows)


def measure(plan: Plan) -> list[Measurement]:
    """Measure both in this process."""
    plan.tell("a request in process", 0)
    measured = InProcess(cost=app.measure())
    plan.tell("a request in process", SECONDS)
    return [measured]


RESULTS = (InProcess,)
STEPS = (Step("in-process", measure, lambda _: SECONDS),)

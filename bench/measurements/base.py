"""What all measurements have in common."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bench.generators import Burst
from bench.plan import Plan
from bench.stats import Ratio, shown
from bench.turns import against_first


class Table(NamedTuple):
    """A title, the names of the columns, and rows of cells."""

    title: str
    head: list[str]
    rows: list[list[str]]


class Aim(NamedTuple):
    """A figure that was aimed at, and the one reached."""

    what: str
    aim: float
    reached: float
    unit: str = ""
    at_most: bool = False
    """Whether less is better."""

    def row(self) -> list[str]:
        """Return what was aimed at, what was reached, and whether the aim was."""
        unit, bound = f" {self.unit}" if self.unit else "", " at most" if self.at_most else ""
        met = self.reached <= self.aim if self.at_most else self.reached >= self.aim
        return [self.what, f"{self.aim:g}{unit}{bound}", f"{self.reached:.2f}{unit}", "yes" if met else "no"]


class Measurement(msgspec.Struct, tag_field="measurement", kw_only=True, omit_defaults=True):
    """A result; each kind has a tag of its own, which results are read by."""

    command: str = ""
    """The load generator's, if there is one."""
    errors: dict[str, str] = msgspec.field(default_factory=dict)
    """Why a subject has no figures, by its name."""
    retaken: int = 0
    """Rounds that were disturbed, and taken again."""
    disturbed: int = 0
    """Rounds that were disturbed and count nevertheless."""
    step: str = ""
    """The name of the step that measured it; results before December 2026 have none."""
    again: str = ""
    """When it was measured again, if it was."""

    def table(self) -> Table:
        """Return the figures, without the errors."""
        raise NotImplementedError

    def identity(self) -> str:
        """Return what tells it from the other measurements of a run, and is the same in another run."""
        return self.table().title

    def reading(self) -> str:
        """Return how to read the figures, in sentences, if the table does not say it."""
        return ""

    def aims(self) -> list[Aim]:
        """Return what the project aims at in this measurement, as far as its subjects were measured."""
        return []


class Step(NamedTuple):
    """What `--only` can name, and what `make bench` and `make bench-full` go through."""

    name: str
    measure: Callable[[Plan], Sequence[Measurement]]
    cost: Callable[[Plan], float]
    """The seconds that it takes on a calm machine."""
    full: bool = True
    """Whether `make bench` leaves it out."""


class Rate(msgspec.Struct, omit_defaults=True):
    """What was measured of a subject: medians of its bursts, latencies in milliseconds, bytes a response with its headers.

    `cpu` is the subject's CPU time in microseconds a request; results before November 2026 have none.
    """

    rps: float
    p50: float
    p99: float
    bytes: float
    ratio: Ratio | None
    bursts: list[Burst]
    cpu: float | None = None
    cpu_ratio: Ratio | None = None
    p99_ratio: Ratio | None = None


def rates(plan: Plan, series: Mapping[str, list[Burst]], value: Callable[[Burst], float]) -> dict[str, Rate]:
    """Take the medians of each subject's bursts, and the ratio of their `value` to the first subject's."""
    compared = against_first(plan, {name: [value(each) for each in bursts] for name, bursts in series.items()})
    tails = against_first(plan, {name: [each.p99 for each in bursts] for name, bursts in series.items()})
    cpu = {name: [each.cpu for each in bursts if each.cpu] for name, bursts in series.items()}
    # A burst without responses between two samples has no CPU time: then the pairs would be of different bursts.
    complete = {name: each for name, each in cpu.items() if len(each) == len(series[name])}
    cpu_compared = against_first(plan, complete)
    return {
        name: Rate(
            rps=statistics.median(each.rps for each in bursts),
            p50=statistics.median(each.p50 for each in bursts),
            p99=statistics.median(each.p99 for each in bursts),
            bytes=statistics.median(each.bytes_a_response for each in bursts),
            ratio=compared[name],
            bursts=bursts,
            cpu=statistics.median(cpu[name]) if cpu[name] else None,
            cpu_ratio=cpu_compared.get(name),
            p99_ratio=tails[name],
        )
        for name, bursts in series.items()
    }


def number(figure: float | None, digits: int = 2) -> str:
    """Write a figure, or a dash if there is none."""
    return "-" if figure is None else f"{figure:.{digits}f}"


def rate_table(title: str, subjects: Mapping[str, Rate], compared: str = "ratio of rps") -> Table:
    """Return a row for each subject: rate, ratio, latencies and CPU time."""
    head = ["subject", "rps", compared, "p50 ms", "p99 ms", "CPU us a request"]
    rows = [
        [name, f"{each.rps:.0f}", shown(each.ratio), number(each.p50), number(each.p99), number(each.cpu, 1)]
        for name, each in subjects.items()
    ]
    return Table(title, head, rows)


def inverse(subjects: Mapping[str, Rate], name: str) -> float | None:
    """Divide this service's rate by a subject's; None if one of them was not measured."""
    subject = subjects.get(name)
    return 1 / subject.ratio.median if subject and subject.ratio else None

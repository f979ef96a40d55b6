"""What all measurements have in common."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bench.generators import Burst
from bench.plan import Plan
from bench.stats import Ratio
from bench.turns import against_first


class Table(NamedTuple):
    """A title, the names of the columns, and rows of cells."""

    title: str
    head: list[str]
    rows: list[list[str]]


class Aim(NamedTuple):
    """A figure that was aimed at, and the one reached."""

    what: str
    aim: str
    reached: str


class Measurement(msgspec.Struct, tag_field="measurement", kw_only=True, omit_defaults=True):
    """A result; each kind has a tag of its own, which results are read by."""

    command: str = ""
    """The load generator's, if there is one."""
    errors: dict[str, str] = msgspec.field(default_factory=dict)
    """Why a subject has no figures, by its name."""

    def table(self) -> Table:
        """Return the figures, without the errors."""
        raise NotImplementedError

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
    full: bool = False
    """Whether `make bench` leaves it out."""


class Rate(msgspec.Struct):
    """What wrk measured of a subject: medians of its bursts, latencies in milliseconds, bytes a response with its headers."""

    rps: float
    p50: float
    p99: float
    bytes: float
    ratio: Ratio | None
    bursts: list[Burst]


def rates(plan: Plan, series: Mapping[str, list[Burst]], value: Callable[[Burst], float]) -> dict[str, Rate]:
    """Take the medians of each subject's bursts, and the ratio of their `value` to the first subject's."""
    compared = against_first(plan, {name: [value(each) for each in bursts] for name, bursts in series.items()})
    return {
        name: Rate(
            rps=statistics.median(each.rps for each in bursts),
            p50=statistics.median(each.p50 for each in bursts),
            p99=statistics.median(each.p99 for each in bursts),
            bytes=statistics.median(each.bytes_a_response for each in bursts),
            ratio=compared[name],
            bursts=bursts,
        )
        for name, bursts in series.items()
    }


def inverse(subjects: Mapping[str, Rate], name: str) -> float | None:
    """Divide this service's rate by a subject's; None if one of them was not measured."""
    subject = subjects.get(name)
    return 1 / subject.ratio.median if subject and subject.ratio else None

"""Bursts in turn: one subject runs while the others are stopped, so that all meet the same machine."""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bench.generators import MeasurementError
from bench.noise import Watch, await_calm, pace, swung
from bench.plan import KeyType, Plan
from bench.processes import Running, started
from bench.stats import Ratio, ratios

Figure = TypeVar("Figure")
RETAKEN = 1 / 3
"""Rounds that are taken again at most, for each that counts. If more are disturbed, the next will be, too."""
START = 1.2
"""Seconds that a subject takes to start, to be checked, and to end."""


def order(number: int, of: int) -> list[int]:
    """Give the turns of a round: A B C, then C B A."""
    turns = list(range(of))
    return turns if number % 2 == 0 else turns[::-1]


@dataclass
class Rounds(Generic[Figure]):
    """The figures of each subject, or its error: one that failed in any round has no figures."""

    figures: dict[str, list[Figure]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    retaken: int = 0
    """Rounds that were disturbed, and taken again."""
    disturbed: int = 0
    """Rounds that were disturbed and count nevertheless, as there were too many."""


@dataclass(frozen=True)
class Turns:
    """A measurement of a plan's subjects in turn, whose bursts take so many seconds."""

    plan: Plan
    profile: str
    what: str
    seconds: float
    key: KeyType | None = None
    """Of the pair, if it is over TLS."""

    @property
    def cost(self) -> float:
        """Seconds that the measurement takes, if nothing disturbs it."""
        return len(self.plan.subjects) * (START + self.plan.rounds * self.seconds)

    def take(self, measure: Callable[[Running], Figure]) -> Rounds[Figure]:
        """Start the subjects, and measure them in turn."""
        pair = self.plan.pairs[self.key] if self.key else None
        servers = {each.name: started(each, self.plan, self.profile, pair) for each in self.plan.subjects}
        return take_turns(self.plan, self.what, self.seconds, servers, measure)


def take_turns(
    plan: Plan,
    what: str,
    seconds: float,
    servers: Mapping[str, AbstractContextManager[Running]],
    measure: Callable[[Running], Figure],
) -> Rounds[Figure]:
    """Measure each of `servers` once a round, in `seconds`; a round that was disturbed is taken again.

    No more than a third as many as count are (`RETAKEN`).
    """
    taken: Rounds[Figure] = Rounds()
    with contextlib.ExitStack() as stack:
        runs: dict[str, Running] = {}
        for name, server in servers.items():
            plan.tell(f"{what}: starting {name}", START)
            try:
                runs[name] = stack.enter_context(server)
            except MeasurementError as error:
                taken.errors[name] = str(error)
                plan.tell(what, plan.rounds * seconds)
        number = 0
        while number < plan.rounds:
            figures, quiet = _round(plan, f"{what}: round {number + 1} of {plan.rounds}", runs, taken, measure, number)
            if not quiet and taken.retaken < plan.rounds * RETAKEN:
                taken.retaken += 1
                await_calm(plan.cpus)
                continue
            taken.disturbed += not quiet
            for name, figure in figures.items():
                taken.figures.setdefault(name, []).append(figure)
            number += 1
            plan.tell(what, len(runs) * seconds)
    taken.figures = {name: each for name, each in taken.figures.items() if name not in taken.errors}
    return taken


def _round(  # noqa: PLR0913, PLR0917 - a part of take_turns
    plan: Plan,
    what: str,
    runs: Mapping[str, Running],
    taken: Rounds[Figure],
    measure: Callable[[Running], Figure],
    number: int,
) -> tuple[dict[str, Figure], bool]:
    """Measure each that has not failed; return the figures, and whether all were undisturbed."""
    figures: dict[str, Figure] = {}
    quiet = True
    paces = [pace()]
    names = list(runs)
    for name in (names[index] for index in order(number, len(names))):
        if name in taken.errors:
            continue
        plan.tell(f"{what}, {name}", 0)
        run = runs[name]
        run.resume()
        watch = Watch(plan.cpus, run.process.pid)
        try:
            figures[name] = measure(run)
            run.must_be_alive()
        except MeasurementError as error:
            taken.errors[name] = str(error)
        else:
            quiet = quiet and not watch.was_disturbed()
        finally:
            run.pause()
        paces.append(pace())
    return figures, quiet and not swung(paces)


def against_first(plan: Plan, series: Mapping[str, list[float]]) -> dict[str, Ratio | None]:
    """Compare each subject's series with that of the plan's first subject; None if that has failed."""
    first = series.get(plan.subjects[0].name) if plan.subjects else None
    return {name: ratios(each, first) if first else None for name, each in series.items()}

"""Bursts in turn: one subject runs while the others are stopped, so that all meet the same machine."""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

from bench.generators import MeasurementError
from bench.plan import Pair, Plan
from bench.processes import Running, started
from bench.stats import Ratio, ratios

Figure = TypeVar("Figure")
Errors = dict[str, str]


def order(number: int, of: int) -> list[int]:
    """Give the turns of a round: A B C, then C B A."""
    turns = list(range(of))
    return turns if number % 2 == 0 else turns[::-1]


def take_turns(
    plan: Plan,
    what: str,
    servers: Mapping[str, AbstractContextManager[Running]],
    measure: Callable[[Running], Figure],
) -> tuple[dict[str, list[Figure]], Errors]:
    """Measure each of `servers` once a round; return the figures by name, and the errors of those that failed.

    One that failed in any round has an error and no figures.
    """
    figures: dict[str, list[Figure]] = {}
    errors: Errors = {}
    with contextlib.ExitStack() as stack:
        runs: dict[str, Running] = {}
        for name, server in servers.items():
            try:
                runs[name] = stack.enter_context(server)
            except MeasurementError as error:
                errors[name] = str(error)
        names = list(runs)
        for number in range(plan.rounds):
            for name in (names[index] for index in order(number, len(names))):
                if name in errors:
                    continue
                plan.tell(f"{what}: round {number + 1} of {plan.rounds}, {name}")
                run = runs[name]
                run.resume()
                try:
                    figures.setdefault(name, []).append(measure(run))
                    run.must_be_alive()
                except MeasurementError as error:
                    errors[name] = str(error)
                    figures.pop(name, None)
                finally:
                    run.pause()
    return figures, errors


def subjects_in_turn(
    plan: Plan, profile: str, pair: Pair | None, what: str, measure: Callable[[Running], Figure]
) -> tuple[dict[str, list[Figure]], Errors]:
    """Start the plan's subjects for a profile, and measure them in turn (see take_turns)."""
    servers = {subject.name: started(subject, plan, profile, pair) for subject in plan.subjects}
    return take_turns(plan, what, servers, measure)


def against_first(plan: Plan, series: Mapping[str, list[float]]) -> dict[str, Ratio | None]:
    """Compare each subject's series with that of the plan's first subject; None if that has failed."""
    first = series.get(plan.subjects[0].name) if plan.subjects else None
    return {name: ratios(each, first) if first else None for name, each in series.items()}

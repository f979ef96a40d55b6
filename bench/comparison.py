"""Two results beside each other. Rates of different runs say nothing; ratios within a run do."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bench.results import Environment, Result
from bench.stats import Ratio

RATIOS = ("ratio", "cpu_ratio", "p99_ratio")


class Row(NamedTuple):
    """A ratio that both results have."""

    measurement: str
    subject: str
    before: Ratio
    after: Ratio

    @property
    def change(self) -> float:
        """The second divided by the first."""
        return self.after.median / self.before.median

    @property
    def overlap(self) -> bool:
        """Whether their intervals do."""
        return self.before.low <= self.after.high and self.after.low <= self.before.high


def differences(before: Result, after: Result) -> list[str]:
    """Say what was measured with other versions, or on another machine, and which runs were disturbed."""
    lines = changes(before.environment, after.environment)
    if before.interval != after.interval:
        lines.append(f"interval: {before.interval} before, {after.interval} after")
    for when, result in (("before", before), ("after", after)):
        if count := sum(each.disturbed > 0 for each in result.measurements):
            lines.append(f"{when}: {count} measurements were disturbed")
    return lines


def changes(ours: Environment, theirs: Environment) -> list[str]:
    """Say which versions and which machine are others."""
    pairs: dict[str, tuple[object, object]] = {
        name: (getattr(ours, name), getattr(theirs, name)) for name in ("cpu", "cpus", "kernel", "python")
    }
    for kind in ("packages", "programs"):
        versions: tuple[Mapping[str, str], Mapping[str, str]] = (getattr(ours, kind), getattr(theirs, kind))
        pairs |= {name: (versions[0].get(name), versions[1].get(name)) for name in {**versions[0], **versions[1]}}
    return [f"{name}: {one} before, {two} after" for name, (one, two) in pairs.items() if one != two]


def rows(before: Result, after: Result) -> list[Row]:
    """List the ratios that both have, but this service's to itself."""
    first, second = (dict(_ratios(result)) for result in (before, after))
    return [
        Row(*name, ratio, second[name])
        for name, ratio in first.items()
        if name in second and not (ratio.low == ratio.high == second[name].median == 1)
    ]


def _ratios(result: Result) -> Iterator[tuple[tuple[str, str], Ratio]]:
    for measurement in result.measurements:
        subjects: Mapping[str, Any] = getattr(measurement, "subjects", {})
        title = measurement.identity()
        for name, figures in subjects.items():
            for kind in RATIOS:
                ratio: Ratio | None = getattr(figures, kind, None)
                if ratio is not None:
                    yield (title, name if kind == "ratio" else f"{name}, {kind.removesuffix('_ratio')}"), ratio

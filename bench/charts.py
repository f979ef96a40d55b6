"""The report's drawings: lines that are labelled at their ends, axes from zero, a dark and a light one of each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measurements.base import Measurement
from bench.measurements.growth_by_count import GrowthByCount
from bench.measurements.steady import Share
from bench.measurements.throughput import Throughput
from bench.reading import picture
from bench.subjects import SERVICE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Lines = Mapping[str, Sequence[tuple[float, float]]]
FEWEST = 8
"""Connections from which on rates are drawn."""
THEMES = {"light": ("#1f2328", "#d0d7de"), "dark": ("#e6edf3", "#3d444d")}
"""The colours of text and of the grid; the background is the page's."""
OURS = {"light": "#0969da", "dark": "#4493f8"}
OTHERS = {
    "light": ("#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#57606a", "#9a6700"),
    "dark": ("#f0883e", "#3fb950", "#a371f7", "#f778ba", "#9198a1", "#d29922"),
}
APART = 0.052
"""Of the axis: labels at lines' ends are at least so far from each other."""


def draw(measurements: Sequence[Measurement], folder: Path) -> str:
    """Draw rates by connections, CPU time by rate, and this service's rate by count; return the Markdown."""
    shown = []
    for profile in ("json-tls", "json"):
        lines = rates(measurements, profile)
        if any(len(line) > 1 for line in lines.values()):
            title = f"{profile}: requests a second by connections"
            _both(folder / profile, lines, title, "connections")
            shown.append(picture(profile, title, "results"))
    lines = cpu(measurements)
    if lines:
        title = "json-tls at steady rates: CPU time of a request, us, by requests a second"
        _both(folder / "cpu", lines, title, "requests a second", logarithmic=False)
        shown.append(picture("cpu", title, "results"))
    for grown in (each for each in measurements if isinstance(each, GrowthByCount)):
        title = "this service over TLS: requests a second by count"
        _both(folder / "count", {SERVICE: list(grown.rates.items())}, title, "items of a response", logarithmic=False)
        shown.append(picture("count", title, "results"))
    return "\n\n".join(shown)


def rates(measurements: Sequence[Measurement], profile: str) -> dict[str, list[tuple[float, float]]]:
    """List (connections, requests a second) by subject."""
    points: dict[str, list[tuple[float, float]]] = {}
    for each in measurements:
        if isinstance(each, Throughput) and each.profile == profile and each.connections >= FEWEST:
            for name, rate in each.subjects.items():
                points.setdefault(name, []).append((each.connections, rate.rps))
    return {name: sorted(line) for name, line in points.items()}


def cpu(measurements: Sequence[Measurement]) -> dict[str, list[tuple[float, float]]]:
    """List (requests a second, microseconds of CPU time a request) by subject."""
    points: dict[str, list[tuple[float, float]]] = {}
    for each in measurements:
        if isinstance(each, Share):
            for name, rate in each.subjects.items():
                points.setdefault(name, []).extend([(each.rate, rate.cpu)] if rate.cpu else [])
    return {name: sorted(line) for name, line in points.items() if line}


def spread(wanted: Sequence[float], apart: float) -> list[float]:
    """Move labels at ascending heights so that each is at least `apart` above the one below, and none below its line much."""
    placed: list[float] = []
    for height in wanted:
        placed.append(max(height, placed[-1] + apart) if placed else height)
    return placed


def _both(stem: Path, lines: Lines, title: str, across: str, *, logarithmic: bool = True) -> None:
    for theme in THEMES:
        _draw(stem.with_name(f"{stem.name}-{theme}.svg"), theme, lines, title, across, logarithmic=logarithmic)


def _draw(  # noqa: PLR0913 - what a drawing is made of
    path: Path, theme: str, lines: Lines, title: str, across: str, *, logarithmic: bool
) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and only this needs it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "the same drawing for the same result"
    from matplotlib import pyplot as plt  # noqa: PLC0415

    text, faint = THEMES[theme]
    colours: Any = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), text)
    with plt.rc_context({**colours, "axes.edgecolor": faint, "svg.fonttype": "none"}):
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        others = iter(OTHERS[theme] * 4)
        ends = []
        for name, line in lines.items():
            colour = OURS[theme] if name == SERVICE else next(others)
            axes.plot(*zip(*line, strict=True), marker="o", color=colour, linewidth=2.5 if name == SERVICE else 1.5)
            ends.append((line[-1][1], line[-1][0], name, colour))
        axes.set_xlabel(across)
        axes.set_ylim(0, None)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        measured = sorted({x for line in lines.values() for x, _ in line})
        if logarithmic:
            axes.set_xscale("log")
            axes.set_xticks(measured, [f"{each:,.0f}" for each in measured])
        else:
            axes.set_xlim(0, None)
        axes.minorticks_off()
        axes.grid(axis="y", color=faint, linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_title(title, loc="left", fontsize=11)
        _label(axes, sorted(ends), measured[-1])
        figure.savefig(path, metadata={"Date": None}, transparent=True)
        plt.close(figure)


def _label(axes: "Axes", ends: Sequence[tuple[float, float, str, str]], last: float) -> None:
    """Name each line at its end, to the right of the data."""
    _, top = axes.get_ylim()
    heights = spread([height for height, *_ in ends], top * APART)
    for (height, x, name, colour), placed in zip(ends, heights, strict=True):
        short = "" if x == last else f" (to {x:,.0f})"
        axes.annotate(
            name + short,
            xy=(x, height),
            xytext=(1.015, placed / top),
            textcoords="axes fraction",
            color=colour,
            va="center",
            fontsize=9,
            fontweight="bold" if name == SERVICE else "normal",
            annotation_clip=False,
        )

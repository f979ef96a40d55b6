"""The report's drawings."""

from collections.abc import Sequence
from pathlib import Path

from bench.measurements.base import Measurement
from bench.measurements.growth_by_count import GrowthByCount
from bench.measurements.throughput import Throughput
from bench.subjects import SERVICE


def draw(measurements: Sequence[Measurement], folder: Path) -> str:
    """Draw the rates against this service's by connections, and this service's by count; return the Markdown."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and only this needs it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "the same drawing for the same result"
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = []
    for profile in ("json-tls", "json"):
        lines = {name: sorted(line) for name, line in _ratios(measurements, profile).items()}
        if not lines:
            continue
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        # The legend beside the lines is in the order of their ends.
        for name, line in sorted(lines.items(), key=lambda each: -each[1][-1][1]):
            axes.plot(*zip(*line, strict=True), marker="o", label=name)
        axes.set(xscale="log", xlabel="connections", ylabel=f"requests a second, {SERVICE} = 1", ylim=(0, None))
        axes.set_title(f"{profile}: rates by connections")
        measured = sorted({connections for line in lines.values() for connections, _ in line})
        axes.set_xticks(measured, [f"{each:,}" for each in measured])
        axes.minorticks_off()
        figure.legend(loc="outside right center")
        figure.savefig(folder / f"{profile}.svg", metadata={"Date": None})
        shown.append(f"![{profile}: rates by connections](results/{profile}.svg)")
    for grown in (each for each in measurements if isinstance(each, GrowthByCount)):
        figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
        axes.plot(list(grown.rates), list(grown.rates.values()), marker="o")
        axes.set(
            xlabel="count, items of a response",
            ylabel="requests a second",
            title=f"{SERVICE} over TLS, by count",
            ylim=(0, None),
        )
        figure.savefig(folder / "count.svg", metadata={"Date": None})
        shown.append("![rate by count](results/count.svg)")
    return "\n\n".join(shown)


def _ratios(measurements: Sequence[Measurement], profile: str) -> dict[str, list[tuple[int, float]]]:
    """List (connections, ratio of rates) by subject."""
    points: dict[str, list[tuple[int, float]]] = {}
    for each in measurements:
        if isinstance(each, Throughput) and each.profile == profile:
            for name, rate in each.subjects.items():
                if rate.ratio:
                    points.setdefault(name, []).append((each.connections, rate.ratio.median))
    return points

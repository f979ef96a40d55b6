"""The statistics of the benchmark: ratios of paired bursts, and percentiles."""

import math
import statistics
from collections.abc import Sequence

import msgspec


class Ratio(msgspec.Struct):
    """The median of some ratios, and the span of their middle half."""

    median: float
    low: float
    high: float


def shown(ratio: Ratio | None) -> str:
    """Write a ratio with its span, or a dash if there is none."""
    return "-" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Divide two series of the same length burst by burst."""
    each = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    if len(each) < 2:
        return Ratio(each[0], each[0], each[0])
    low, _, high = statistics.quantiles(each, n=4, method="inclusive")
    return Ratio(statistics.median(each), low, high)


def percentile(series: Sequence[float], share: float) -> float:
    """Give the value below or at which `share` per cent of a series lie."""
    ranked = sorted(series)
    return ranked[max(0, math.ceil(len(ranked) * share / 100) - 1)]

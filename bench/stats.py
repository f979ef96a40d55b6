"""The statistics of the benchmark: ratios of paired bursts with their intervals, and percentiles."""

import math
import random
import statistics
from collections.abc import Sequence

import msgspec

RESAMPLES = 2000
COVERED = 0.95


class Ratio(msgspec.Struct):
    """The median of some ratios, and its interval (see `ratios`)."""

    median: float
    low: float
    high: float


def shown(ratio: Ratio | None) -> str:
    """Write a ratio with its interval, or a dash if there is none."""
    return "-" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Divide two series of the same length burst by burst; the interval is the median's 95 % bootstrap interval.

    It is that of percentiles. The same series have the same interval.
    """
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    chance = random.Random(0)
    medians = [statistics.median(chance.choices(each, k=len(each))) for _ in range(RESAMPLES)]
    outside = (1 - COVERED) / 2 * 100
    return Ratio(statistics.median(each), percentile(medians, outside), percentile(medians, 100 - outside))


def percentile(series: Sequence[float], share: float) -> float:
    """Give the value below or at which `share` per cent of a series lie."""
    ranked = sorted(series)
    return ranked[max(0, math.ceil(len(ranked) * share / 100) - 1)]

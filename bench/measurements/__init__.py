"""What is measured: one file each, with its result, the function that measures it, and the table that shows it.

A new measurement is a file like the others, with RESULTS and STEPS, and a row in FILES.
"""

import functools
import operator
from typing import Any, Protocol

from bench.measurements import (
    arena,
    choices,
    compressed,
    framework,
    growth_by_count,
    growth_by_workers,
    h2c,
    handshake_burst,
    in_process,
    memory,
    steady,
    throughput,
)
from bench.measurements.base import Measurement, Step


class File(Protocol):
    """What each file of this package has."""

    @property
    def RESULTS(self) -> tuple[type[Measurement], ...]:  # noqa: N802 - a constant of a module
        """The types of its results."""

    @property
    def STEPS(self) -> tuple[Step, ...]:  # noqa: N802 - a constant of a module
        """What `--only` can name."""


FILES: tuple[File, ...] = (
    throughput,
    steady,
    framework,
    compressed,
    arena,
    handshake_burst,
    h2c,
    choices,
    in_process,
    growth_by_count,
    growth_by_workers,
    memory,
)
STEPS = tuple(step for file in FILES for step in file.STEPS)
TYPES: Any = functools.reduce(operator.or_, (result for file in FILES for result in file.RESULTS))
"""The union of all results; their tags tell them apart."""

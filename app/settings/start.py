"""What this process was started with. An application that is imported may change all of it; a reload is to find the same."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Start:
    """A process's state before it has imported anything of somebody else's."""

    environment: Mapping[str, str]
    folder: Path | None
    """The working directory; None if it was gone."""
    cpus: int
    """How many the process may use."""


_taken: Start | None = None


def take() -> Start:
    """Keep the present state as that of the start, for this process and those forked from it, and return it."""
    global _taken  # noqa: PLW0603 - what asks for it is in an application of this project, too, which is given nothing
    _taken = _now()
    return _taken


def taken() -> Start:
    """Return the state of the start; the present one without a launcher, which takes it."""
    return _taken or _now()


def _now() -> Start:
    try:
        folder = Path.cwd()
    except OSError:
        folder = None
    try:
        cpus = len(os.sched_getaffinity(0))
    except OSError:  # a seccomp profile
        cpus = os.cpu_count() or 1
    return Start(dict(os.environ), folder, cpus)

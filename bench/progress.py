"""The progress of a run, and the time left: what measurements cost, corrected by what they have taken so far."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich import progress as rich_progress
from rich.text import Text

SURE = 0.05
"""The share of a run after which its speed is known well enough to correct the estimate."""


def minutes(seconds: float) -> str:
    """Write a duration."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Left:
    """The seconds left of a run that costs `total`; between two reports it counts down."""

    def __init__(self, total: float, now: float) -> None:
        self.total, self.begin = total, now
        self.reported, self.left = now, total

    def report(self, done: float, now: float) -> None:
        """So much of the cost is over."""
        slowness = (now - self.begin) / done if done > self.total * SURE else 1.0
        self.reported, self.left = now, (self.total - done) * max(1.0, slowness)

    def at(self, now: float) -> float:
        """Return the seconds left."""
        return max(0.0, self.left - (now - self.reported))


class _LeftColumn(rich_progress.ProgressColumn):
    def render(self, task: rich_progress.Task) -> Text:
        left: Left | None = task.fields.get("left")
        return Text("" if left is None else f"{minutes(left.at(time.monotonic()))} left", style="cyan")


class Progress:
    """A line on the terminal: what is measured, a bar, the time left."""

    def __init__(self) -> None:
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"), rich_progress.BarColumn(), _LeftColumn()
        )
        self._task = self._bar.add_task("starting", total=None)
        self._costs: Sequence[float] = ()
        self._before = self._step = 0.0
        self._number = 0
        self._left = Left(1, time.monotonic())

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, costs: Sequence[float]) -> None:
        """Show a run of steps that cost so many seconds each."""
        self._costs, self._left = costs, Left(sum(costs), time.monotonic())
        self._bar.update(self._task, total=sum(costs), left=self._left)

    def start(self, number: int) -> None:
        """Show that a step begins: all before are over, whatever they said."""
        self._number, self._before, self._step = number, sum(self._costs[:number]), 0.0
        self.tell("starting", 0)

    def tell(self, what: str, seconds: float) -> None:
        """Show what is being measured, and that so many seconds of the step's cost are over."""
        self._step = min(self._step + seconds, self._costs[self._number])
        done = self._before + self._step
        self._left.report(done, time.monotonic())
        self._bar.update(self._task, description=what, completed=done)

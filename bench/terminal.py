"""Results on the terminal: the headlines first, then a table for each measurement."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from bench import results, tables
from bench.comparison import Row
from bench.reading import headlines

WIDTH = 140
"""Columns of what is no terminal, such as a file."""


def wide() -> Console:
    """Return a console for this terminal, or WIDTH columns wide for what is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=WIDTH, highlight=False)


def show(console: Console, result: results.Result) -> None:
    """Print a result; what was disturbed says so, before the figures and beside them."""
    if lines := headlines(result):
        console.print(Panel("\n".join(lines), title="this service, one worker", expand=False))
    if any(each.disturbed for each in result.measurements):
        console.print(
            "The machine was not calm while this was measured: do not rely on these figures.", style="bold red"
        )
    for measurement in result.measurements:
        console.print()
        console.print(_grid(*measurement.table()))
        for name, error in measurement.errors.items():
            console.print(f"{name}: error: {error}", style="red", markup=False)
        for line in (tables.noise(measurement).replace("**", ""), measurement.reading()):
            if line:
                console.print(line)
    console.print(f"In brackets: {result.interval}.")


def _grid(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    grid = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, name in enumerate(head):
        grid.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    return grid


def compare(console: Console, differences: Sequence[str], rows: Sequence[Row]) -> None:
    """Print what two results were measured with, where that differs, and their ratios side by side."""
    for line in differences:
        console.print(line)
    grid = _grid("ratios to this service", ["measurement", "subject", "before", "after", "after / before", ""], [])
    last = ""
    for row in rows:
        if row.measurement != last:
            grid.add_section()
        grid.add_row(
            row.measurement if row.measurement != last else "",
            row.subject,
            f"{row.before.median:.2f}",
            f"{row.after.median:.2f}",
            f"{row.change:.2f}",
            "" if row.overlap else "intervals apart",
        )
        last = row.measurement
    console.print(grid)

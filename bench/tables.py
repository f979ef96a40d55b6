"""Measurements as Markdown."""

import textwrap
from collections.abc import Sequence

from bench.measurements.base import Measurement

WIDTH = 120  # of a line in this project's Markdown


def table(head: list[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def paragraph(sentences: Sequence[str]) -> str:
    """Write sentences as a paragraph; empty ones are left out."""
    return textwrap.fill(" ".join(each for each in sentences if each), WIDTH, break_on_hyphens=False)


def bullets(lines: Sequence[str]) -> str:
    """Write a list."""
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
        for line in lines
    )


def noise(measurement: Measurement) -> str:
    """Say if others used the machine meanwhile; empty if not."""
    if measurement.disturbed:
        return (
            f"**Disturbed**: others used the machine, or its speed changed, in {measurement.disturbed} of the rounds that"
            f" count; {measurement.retaken} more were taken again."
        )
    if measurement.retaken:
        return f"Rounds taken again, as they were disturbed: {measurement.retaken}."
    return ""


def section(measurement: Measurement) -> str:
    """Write a measurement as a heading, a table and its reading; a subject that failed has its error for figures."""
    title, head, rows = measurement.table()
    empty = [""] * (len(head) - 2)
    failed = [[name, f"error: {error}", *empty] for name, error in measurement.errors.items()]
    command = f"\n\n`{measurement.command}`" if measurement.command else ""
    again = f"Measured again {measurement.again}, as others had used the machine." if measurement.again else ""
    sentences = paragraph([again, noise(measurement), measurement.reading()])
    reading = f"\n{sentences}\n" if sentences else ""
    return f"### {title}{command}\n\n{table(head, [*rows, *failed])}\n{reading}"


def text(measurements: Sequence[Measurement]) -> str:
    """Write all measurements."""
    return "\n".join(section(each) for each in measurements)


def aims(measurements: Sequence[Measurement]) -> str:
    """Put what was aimed at beside what was measured; what was not is left out."""
    return table(["", "aim", "measured", "reached"], [aim.row() for each in measurements for aim in each.aims()])

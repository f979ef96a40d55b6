"""The command: `python -m bench [--full] [--only ...] [--subjects ...] [--list]`, and `python -m bench report`."""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import report, results
from bench.measurements import STEPS
from bench.measurements.base import Measurement, Step
from bench.plan import KEY_TYPES, Pair, Plan
from bench.subjects import ROOT, SUBJECTS, Subject
from bench.tables import text

RESULTS = ROOT / "bench" / "results"
TOOLS = {"wrk": "wrk", "h2load": "nghttp2-client", "taskset": "util-linux"}
"""The programs that every run needs, and Debian's packages that have them."""


class UsageError(Exception):
    """An argument is invalid, or a program is missing; reported on one line."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["measure", "report"], default="measure")
    parser.add_argument("--full", action="store_true", help="all measurements, not the short form")
    parser.add_argument("--list", action="store_true", help="list measurements and subjects")
    parser.add_argument("--only", nargs="+", metavar="MEASUREMENT")
    parser.add_argument("--subjects", nargs="+", metavar="SUBJECT")
    parser.add_argument("--rounds", type=int, default=5, help="bursts of each subject (5)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where the result goes")
    return parser.parse_args()


def check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise UsageError if a name is unknown."""
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"{option} {' '.join(unknown)}: unknown; known are {', '.join(known)}")


def chosen_steps(only: Sequence[str] | None, *, full: bool) -> list[Step]:
    """Return the steps named by `only`, or those of the full or the short form."""
    if only is None:
        return [step for step in STEPS if full or not step.full]
    check_names("--only", only, [step.name for step in STEPS])
    return [step for step in STEPS if step.name in only]


def chosen_subjects(names: Sequence[str] | None) -> list[Subject]:
    """Return the subjects of those names, or all that are installed; the others are reported."""
    if names is not None:
        check_names("--subjects", names, [subject.name for subject in SUBJECTS])
    wanted = [subject for subject in SUBJECTS if names is None or subject.name in names]
    if missing := [subject.needs for subject in wanted if not subject.is_installed]:
        if names is not None:
            raise UsageError(f"--subjects: {', '.join(missing)} is not installed")
        print(f"not installed, so not measured: {', '.join(missing)}", file=sys.stderr)
    return [subject for subject in wanted if subject.is_installed]


def check_machine() -> None:
    """Raise UsageError if nothing can be measured here."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        packages = " ".join(TOOLS[tool] for tool in missing)
        raise UsageError(f"{', '.join(missing)}: not installed; apt-get install {packages}")
    if len(os.sched_getaffinity(0)) < 2:
        raise UsageError("bench needs two CPUs: one for the server, one for the load")


def measure(steps: Sequence[Step], subjects: Sequence[Subject], rounds: int) -> list[Measurement]:
    """Go through the steps, and show the progress."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    measurements: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="bench-pairs-") as folder, Progress(*columns) as progress:
        task = progress.add_task("starting", total=len(steps))
        pairs = {kind: Pair(Path(folder), kind) for kind in KEY_TYPES}
        plan = Plan(subjects, pairs, lambda what: progress.update(task, description=what), rounds=rounds)
        for step in steps:
            measurements += step.measure(plan)
            progress.advance(task)
    return measurements


def run(options: argparse.Namespace) -> int:
    """Measure, keep the result and print it; the exit status is 1 if a subject failed. Raises UsageError."""
    if options.rounds < 1:
        raise UsageError(f"--rounds {options.rounds}: must be 1 or more")
    steps = chosen_steps(options.only, full=options.full)
    subjects = chosen_subjects(options.subjects)
    check_machine()
    # Thousands of connections need as many open files: those of the load generators, and of each subject alike.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    environment = results.environment()
    measurements = measure(steps, subjects, options.rounds)
    form = "full" if options.full else "short"
    options.results.mkdir(exist_ok=True)
    path = options.results / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{form}.json"
    results.write(path, results.Result(environment, {each.name: each.what for each in subjects}, measurements))
    print(text(measurements))
    print(f"written to {path}; `python -m bench report` makes bench/REPORT.md of the newest full one")
    return 1 if any(each.errors for each in measurements) else 0


def main() -> int:
    """Measure, list what can be measured, or write the report of what was measured last."""
    options = arguments()
    if options.list:
        print("measurements:", *(step.name for step in STEPS), sep="\n  ")
        print("subjects:", *(f"{subject.name}: {subject.what}" for subject in SUBJECTS), sep="\n  ")
        return 0
    try:
        return report.write(RESULTS) if options.command == "report" else run(options)
    except UsageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

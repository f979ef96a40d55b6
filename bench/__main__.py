"""The command: measure; measure `again` what was disturbed in a result; write the `report`; `compare` two results."""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import structs

from bench import ROOT, comparison, report, results, terminal
from bench.measurements import STEPS
from bench.measurements.base import Measurement, Step
from bench.plan import KEY_TYPES, Pair, Plan
from bench.progress import Progress, minutes
from bench.subjects import SUBJECTS, Subject

RESULTS = ROOT / "bench" / "results"
TOOLS = {"wrk": "wrk", "h2load": "nghttp2-client", "taskset": "util-linux"}
"""The programs that every run needs, and Debian's packages that have them."""
FEWEST = 9
"""Rounds; with fewer the interval of a median says little."""


class UsageError(Exception):
    """An argument is invalid, or a program is missing; reported on one line."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["measure", "again", "report", "compare"], default="measure")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="two results for compare, one for again")
    parser.add_argument("--full", action="store_true", help="all measurements and subjects, not the short form")
    parser.add_argument("--list", action="store_true", help="list measurements and subjects")
    parser.add_argument("--only", nargs="+", metavar="MEASUREMENT")
    parser.add_argument("--subjects", nargs="+", metavar="SUBJECT")
    parser.add_argument("--rounds", type=int, default=FEWEST, help=f"bursts of each subject ({FEWEST})")
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


def chosen_subjects(names: Sequence[str] | None, *, all_of_them: bool) -> list[Subject]:
    """Return the subjects of those names, or those of the form that are installed; the others are reported."""
    if names is not None:
        check_names("--subjects", names, [subject.name for subject in SUBJECTS])
    wanted = [each for each in SUBJECTS if (all_of_them or each.short if names is None else each.name in names)]
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
    """Go through the steps, and show the progress. Raises UsageError if nothing can be measured here."""
    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: must be 1 or more")
    check_machine()
    # Thousands of connections need as many open files: those of the load generators, and of each subject alike.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    measurements: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="bench-pairs-") as folder, Progress() as progress:
        pairs = {kind: Pair(Path(folder), kind) for kind in KEY_TYPES}
        plan = Plan(subjects, pairs, progress.tell, rounds=rounds)
        # This process would disturb a subject on whose CPU it ran.
        os.sched_setaffinity(0, plan.load_cpus)
        costs = [step.cost(plan) for step in steps]
        progress.begin(costs)
        print(f"{len(steps)} measurements, about {minutes(sum(costs))} on a calm machine", flush=True)
        for number, step in enumerate(steps):
            progress.start(number)
            measurements += [structs.replace(each, step=step.name) for each in step.measure(plan)]
        os.sched_setaffinity(0, plan.cpus)
    return measurements


def run(options: argparse.Namespace) -> int:
    """Measure, keep the result and print it; the exit status is 1 if a subject failed. Raises UsageError."""
    if options.files:
        raise UsageError(f"{options.files[0]}: unexpected; only compare and again take files")
    steps = chosen_steps(options.only, full=options.full)
    subjects = chosen_subjects(options.subjects, all_of_them=options.full or options.only is not None)
    environment = results.environment()
    measurements = measure(steps, subjects, options.rounds)
    result = results.Result(environment, {each.name: each.what for each in subjects}, measurements, results.BOOTSTRAP)
    return keep(options.results, "full" if options.full else "short", result)


def again(options: argparse.Namespace) -> int:
    """Measure again what others disturbed in a result, and keep it with what is as before. Raises UsageError."""
    if len(options.files) != 1:
        raise UsageError("again: name one result, such as bench/results/A-full.json")
    if options.full or options.subjects is not None:
        raise UsageError("again: takes neither --full nor --subjects, as both are the result's; --only chooses of it")
    (path,) = options.files
    before = _read(path)
    steps = [
        each
        for each in chosen_steps(options.only, full=True)
        if any(kept.disturbed for kept in before.measurements if kept.step == each.name)
    ]
    if not steps:
        raise UsageError(f"{path}: nothing that was chosen is said to be disturbed; `python -m bench` measures all")
    environment = results.environment()
    if changed := comparison.changes(before.environment, environment):
        raise UsageError(f"{path}: {'; '.join(changed)}: its figures go with no others; measure all with --full")
    measurements = measure(steps, chosen_subjects(list(before.subjects), all_of_them=False), options.rounds)
    form = "full" if path.stem.endswith("-full") else "short"
    return keep(options.results, form, before.with_again(measurements, environment.date))


def keep(folder: Path, form: str, result: results.Result) -> int:
    """Write a result, and print it; the exit status is 1 if a subject failed."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{form}.json"
    results.write(path, result)
    terminal.show(terminal.wide(), result)
    print(f"written to {path}; `python -m bench report` makes bench/REPORT.md of the newest full one")
    return 1 if any(each.errors for each in result.measurements) else 0


def compare(files: Sequence[Path]) -> int:
    """Print what differs between two results; raises UsageError."""
    if len(files) != 2:
        raise UsageError("compare: name two results, such as bench/results/A.json bench/results/B.json")
    before, after = (_read(path) for path in files)
    terminal.compare(terminal.wide(), comparison.differences(before, after), comparison.rows(before, after))
    return 0


def _read(path: Path) -> results.Result:
    try:
        return results.read(path)
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise UsageError(f"{path}: {error}; name a result that `python -m bench` wrote") from error


def main() -> int:
    """Measure, list what can be measured, write the report of what was measured last, or compare two results."""
    options = arguments()
    if options.list:
        print("measurements:", *(step.name for step in STEPS), sep="\n  ")
        print("subjects:", *(f"{subject.name}: {subject.what}" for subject in SUBJECTS), sep="\n  ")
        return 0
    try:
        if options.command == "compare":
            return compare(options.files)
        if options.command == "again":
            return again(options)
        return report.write(RESULTS) if options.command == "report" else run(options)
    except UsageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

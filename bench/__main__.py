"""The command: `python -m bench [--full] [--only ...] [--subjects ...] [--list]`, and `python -m bench report`."""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import report
from bench.measure import (
    Pair,
    Plan,
    compressed,
    growth_by_count,
    growth_by_workers,
    memory,
    multiplexed,
    request_cost,
    steady,
    storm,
    tax,
    throughput,
)
from bench.subjects import ROOT, SUBJECTS, to_json, write_environment

RESULTS = ROOT / "bench" / "results"
KEYS = ("RSA-2048", "P-256")


def steps(plan: Plan, pairs: dict[str, Pair], *, full: bool) -> list[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """List what is measured, by name."""
    rsa = pairs["RSA-2048"]

    def both(connections: int) -> Callable[[], list[dict[str, Any]]]:
        def measure() -> list[dict[str, Any]]:
            plain, encrypted = throughput(plan, None, connections), throughput(plan, rsa, connections)
            return [plain, encrypted, tax(plain, encrypted)]

        return measure

    def handshakes(connections: int) -> Callable[[], list[dict[str, Any]]]:
        return lambda: [storm(plan, pairs[kind], connections, kind) for kind in (KEYS if full else KEYS[:1])]

    measured = [(f"throughput-{number}", both(number)) for number in ((1, 64, 256, 4096) if full else (256,))]
    measured += [(f"storm-{number}", handshakes(number)) for number in ((1024, 4096) if full else (1024,))]
    measured += [("steady", lambda: [steady(plan, rsa, 2000)])]
    measured += [("json-comp", lambda: [compressed(plan, "json-comp", 512)])]
    measured += [("json-h2c", lambda: [multiplexed(plan, number) for number in ((64, 1024) if full else (64,))])]
    if full:
        measured += [("compressors", lambda: [compressed(plan, "compressors", 512)])]
        measured += [("growth", lambda: [growth_by_count(plan, rsa), growth_by_workers(plan, rsa), *memory(plan, rsa)])]
    return [("in-process", lambda: [request_cost()]), *measured]


def main() -> int:
    """Measure, or write the report of what was measured last."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["measure", "report"], default="measure")
    parser.add_argument("--full", action="store_true", help="all connections and keys, not the short form")
    parser.add_argument("--list", action="store_true", help="list measurements and subjects")
    parser.add_argument("--only", nargs="+", metavar="MEASUREMENT")
    parser.add_argument("--subjects", nargs="+", metavar="SUBJECT")
    parser.add_argument("--rounds", type=int, default=5, help="bursts of each subject (5)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where the result goes")
    arguments = parser.parse_args()
    if arguments.command == "report":
        return report.write(RESULTS)
    chosen = [
        subject
        for subject in SUBJECTS
        if subject.is_installed and (arguments.subjects is None or subject.name in arguments.subjects)
    ]
    if missing := [tool for tool in ("wrk", "h2load", "taskset") if shutil.which(tool) is None]:
        print(f"{', '.join(missing)}: not installed; apt-get install wrk nghttp2-client util-linux", file=sys.stderr)
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="bench-pairs-") as folder,
        Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as progress,
    ):
        pairs = {kind: Pair(Path(folder), kind) for kind in KEYS}
        task = progress.add_task("starting", total=None)
        plan = Plan(chosen, lambda what: progress.update(task, description=what), rounds=arguments.rounds)
        if not plan.load_cpus:
            print("bench needs two CPUs: one for the server, one for the load", file=sys.stderr)
            return 2
        wanted = [
            step
            for step in steps(plan, pairs, full=arguments.full or arguments.only is not None)
            if arguments.only is None or step[0] in arguments.only
        ]
        if arguments.list or not wanted:
            progress.stop()
            print("measurements:", *(name for name, _ in steps(plan, pairs, full=True)), sep="\n  ")
            print("subjects:", *(f"{subject.name}: {subject.what}" for subject in SUBJECTS), sep="\n  ")
            return 0 if arguments.list else 2
        progress.update(task, total=len(wanted))
        measurements: list[dict[str, Any]] = []
        environment = write_environment()
        for _, measure in wanted:
            measurements += measure()
            progress.advance(task)
    arguments.results.mkdir(exist_ok=True)
    path = (
        arguments.results
        / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{'full' if arguments.full else 'short'}.json"
    )
    subjects = {subject.name: subject.what for subject in chosen}
    path.write_text(to_json({"environment": environment, "subjects": subjects, "measurements": measurements}))
    print(report.text(measurements))
    print(f"written to {path}; `python -m bench report` makes bench/REPORT.md of the newest full one")
    failed = [error for each in measurements for error in each.get("errors", {})]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

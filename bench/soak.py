"""The command: `python -m bench.soak [--scale SHARE] [--minutes MINUTES]` loads the service until something gives way.

It writes its figures to docs/reliability-figures.json, and what docs/reliability.md says of them between its markers.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import trustme

from bench import ROOT, proc, reliability
from bench.listeners import ENABLED, free_variables
from bench.proc import wait_until
from bench.verified_client import Tally
from bench.verified_load import Load

FIGURES = ROOT / "docs" / "reliability-figures.json"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"
RETURNED = 1.1  # memory afterwards over memory before
REST = 24.0  # seconds, a half for each listener
START_DEADLINE, STOP_DEADLINE = 30.0, 4.0  # seconds
CONNECTIONS_OF_A_CLIENT = 4096
WORKERS = 2
Figures = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A running service: its launcher's process, its ports, and the file with the certificate of its authority."""

    pid: int
    port: int
    tls_port: int
    authority: Path

    def tree(self) -> list[psutil.Process]:
        """Return the launcher and all that it started."""
        return [psutil.Process(pid) for pid in (self.pid, *proc.descendants(self.pid))]

    def memory(self) -> dict[str, float]:
        """Return the MiB of the whole tree (proc(5), smaps_rollup).

        `anonymous` is its share of the anonymous pages, which is what can leak: pages of libraries count less if
        another process maps them too. `uss` is what its processes have each for themselves.
        """
        anonymous = uss = 0
        for process in self.tree():
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            kib = {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB$", rollup, re.MULTILINE)}
            anonymous += kib["Pss_Anon"]
            uss += kib["Private_Clean"] + kib["Private_Dirty"]
        return {"anonymous": round(anonymous / 1024, 1), "uss": round(uss / 1024, 1)}

    def open_files(self) -> list[int]:
        """Return how many files each worker has open."""
        return [proc.open_files(worker) for each in proc.children(self.pid) for worker in proc.children(each)]

    def load(self, connections: int, *, tls: bool, requests: int = 0, pause: float = 0.0, processes: int = 1) -> Load:
        """Start a load of one listener."""
        port, authority = (self.tls_port, self.authority) if tls else (self.port, None)
        return Load(port, connections, authority=authority, requests=requests, pause=pause, processes=processes)


@dataclass(frozen=True)
class Span:
    """How long a load is applied, in how many rounds, and how long the service rests after each (all in seconds)."""

    seconds: float
    rounds: int = 1
    rest: float = 0.0


def hold(target: Target, connections: int, seconds: float, rate: float, *, tls: bool) -> Tally:
    """Keep connections open, and send `rate` requests a second on them in all."""
    number = -(-connections // CONNECTIONS_OF_A_CLIENT)
    with target.load(connections, tls=tls, pause=connections / rate, processes=number) as load:
        load.opened()
        load.begin()
        time.sleep(seconds)
        return load.end()


def measure(target: Target, name: str, load: Callable[[float], Tally], span: Span) -> Figures:
    """Apply a load for up to 30 s to warm up, then for the span, and measure what is left after each round.

    While it rests the service gets a few requests: Granian's allocator (jemalloc) gives memory back 10 s after it was
    freed, and only when it is called again.
    """
    idle = target.open_files()

    def settled() -> dict[str, float]:
        if span.rest:
            for tls in (True, False):
                hold(target, 16, span.rest / 2, 500, tls=tls)
        wait_until(lambda: target.open_files() == idle, f"{idle} open files in the workers", 30)
        return target.memory()

    cold = target.memory()
    warm_up = load(min(span.seconds, 30.0))
    before = settled()
    tallies, after = [], []
    for _ in range(span.rounds):
        tallies.append(load(span.seconds / span.rounds))
        after.append(settled())
    tally = Tally.sum([warm_up, *tallies])
    growth = after[-1]["anonymous"] / before["anonymous"]
    failures = []
    if tally.failed:
        failures.append(f"{tally.failed} connections or requests failed: {tally}")
    if growth > RETURNED:
        failures.append(f"memory is {growth:.2f} of what it was before")
    return {
        "name": name,
        "seconds": span.seconds,
        "connections": tally.opened,
        "responded": tally.responded,
        "failed": tally.failed,
        "longest": round(tally.longest, 2),
        "cold": cold,
        "before": before,
        "after": after,
        "growth": round(growth, 3),
        "open_files": idle,
        "failures": failures,
    }


def held(target: Target, connections: int, span: Span, *, tls: bool) -> Figures:
    """Measure connections that are held open and used, by 4,000 requests a second in all."""
    return measure(
        target,
        f"{connections:,} {'TLS' if tls else 'plaintext'} connections held open",
        lambda seconds: hold(target, connections, seconds, 4000, tls=tls),
        span,
    )


def handshakes(target: Target, connections: int, span: Span) -> Figures:
    """Measure handshakes over and over, with one request each."""

    def load(seconds: float) -> Tally:
        with target.load(connections, tls=True, requests=1) as load:
            time.sleep(seconds)
            return load.end()

    return measure(target, f"{connections:,} clients that make TLS handshakes over and over", load, span)


def come_and_go(target: Target, connections: int, span: Span) -> Figures:
    """Measure connections that come and go on both listeners."""

    def load(seconds: float) -> Tally:
        with ExitStack() as stack:
            loads = [
                stack.enter_context(target.load(connections, tls=tls, requests=20, pause=0.02)) for tls in (True, False)
            ]
            time.sleep(seconds)
            return Tally.sum([each.end() for each in loads])

    return measure(target, f"{2 * connections:,} connections that come and go on both listeners", load, span)


def table(results: list[Figures]) -> str:
    """Return the figures as a Markdown table."""
    head = "| load | s | connections opened | responses, all verified | failed | slowest response, s | MiB cold, warm, after |"
    rows = [
        f"| {each['name']} | {each['seconds']:.0f} | {each['connections']:,} | {each['responded']:,} | {each['failed']}"
        f" | {each['longest']:.2f} | {each['cold']['anonymous']}, {each['before']['anonymous']},"
        f" {' '.join(str(level['anonymous']) for level in each['after'])} ({each['growth']:.2f}) |"
        for each in results
    ]
    return "\n".join([head, "|" + " --- |" * 7, *rows])


def section(figures: Figures) -> str:
    """Return what docs/reliability.md shows of a run, with its markers."""
    return (
        f"{BEGIN}\n{figures['date']}, {figures['command']}; {figures['cpus']} CPUs, Linux {figures['kernel']}, Python"
        f" {figures['python']}:\n\n{table(figures['results'])}\n{END}"
    )


def write(figures: Figures) -> None:
    """Write the figures, and put them into the document."""
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    reliability.put(section(figures), BEGIN, END)


@contextmanager
def serving(folder: Path, failures: list[str]) -> Iterator[Target]:
    """Run the service with a pair of a new authority, and stop it; what it did wrong is added to `failures`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.crt"))
    leaf = authority.issue_cert("localhost")
    leaf.private_key_pem.write_to_path(str(folder / "server.key"))
    leaf.cert_chain_pems[0].write_to_path(str(folder / "server.crt"))
    ports = free_variables()
    port, tls_port = int(ports["PORT"]), int(ports["TLS_PORT"])
    variables = ports | {"WORKERS": str(WORKERS)}
    variables |= {"TLS_CERT": str(folder / "server.crt"), "TLS_KEY": str(folder / "server.key")}
    output, errors = folder / "output", folder / "errors"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = psutil.Popen(
            [sys.executable, "-m", "app"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]} | variables,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
    target = Target(process.pid, port, tls_port, folder / "authority.crt")
    try:
        # Its last line is printed when all listeners respond; workers may come a moment later.
        wait_until(lambda: "\n  curl 'http:" in output.read_text(), "the service's last line", START_DEADLINE)
        wait_until(lambda: len(target.open_files()) == len(ENABLED) * WORKERS, "all workers", START_DEADLINE)
        yield target
        process.terminate()
        if (status := process.wait(STOP_DEADLINE)) != 0:
            failures.append(f"the service ended with {status}")
        # 2026-11-25T15:41:23.207Z INFO ...: what happens as it should (docs/operations.md)
        if unexpected := [line for line in errors.read_text().splitlines() if line.split(" ")[1:2] != ["INFO"]]:
            failures.append(f"the service logged: {unexpected}")
    finally:
        if process.poll() is None:
            process.kill()  # the kernel kills its descendants with it
            process.wait()


def main() -> int:
    """Load the service in all ways; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, metavar="SHARE", help="of the connections (1.0)")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of connections that come and go (10); of other loads a fifth"
    )
    arguments = parser.parse_args()
    long = Span(arguments.minutes * 60, rounds=5, rest=REST)
    short = Span(arguments.minutes * 60 / 5, rest=REST)

    def scaled(connections: int) -> int:
        return max(16, int(connections * arguments.scale))

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    plaintext = min(scaled(16384), hard - 1000)  # room for what else a worker and the client have open
    loads: list[Callable[[Target], Figures]] = [
        lambda target: held(target, scaled(4096), short, tls=True),
        lambda target: held(target, plaintext, short, tls=False),
        lambda target: handshakes(target, scaled(1024), short),
        lambda target: handshakes(target, scaled(1536), short),
        lambda target: come_and_go(target, scaled(512), long),
    ]
    results: list[Figures] = []
    for load in loads:
        failures: list[str] = []
        with tempfile.TemporaryDirectory(prefix="soak-") as name, serving(Path(name), failures) as target:
            figures = load(target)
        figures["failures"] += failures
        results.append(figures)
        print(table([figures]).splitlines()[-1], *figures["failures"], sep="\n", flush=True)
    write(
        reliability.circumstances(f"`python -m bench.soak --scale {arguments.scale:g} --minutes {arguments.minutes:g}`")
        | {"results": results}
    )
    return 1 if any(figures["failures"] for figures in results) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The command: `python -m bench.campaign [--minutes MINUTES] [--seed NUMBER]` does to a loaded service what may happen.

Its pair is renewed in every way, its processes get every signal, forks fail, outputs close (bench/faults.py). Every
request and handshake is counted and verified (bench/verified_client.py). Nothing may be lost, but the connections of
workers that are killed; processes, open files and memory have to be afterwards what they were. The figures go into
docs/reliability.md.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import trustme

from bench import ROOT, faults, proc, reliability, soak
from bench.faults import Service
from bench.listeners import free_variables
from bench.proc import wait_until
from bench.verified_client import Tally
from bench.verified_load import Load

FIGURES = ROOT / "docs" / "campaign-figures.json"
BEGIN, END = "<!-- campaign: begin -->", "<!-- campaign: end -->"
WORKERS = (1, 2, 16)
EPISODE = 45.0  # seconds
GROWN = 1.15  # memory of the whole tree afterwards over memory before
PEAK = 1024  # connections to each listener before memory is measured, more than there are in the campaign
OUTPUTS = ("file", "full", "closed")


@dataclass
class Record:
    """What was done to services, and what became of their clients."""

    actions: Counter[str] = field(default_factory=Counter)
    lossless: list[Tally] = field(default_factory=list)
    killed: list[Tally] = field(default_factory=list)
    """While workers were killed, whose connections are lost."""
    failures: list[str] = field(default_factory=list)


@contextmanager
def loads(service: Service) -> Iterator[list[Load]]:
    """Load both listeners: connections that stay for 50 requests, and connections for one request each."""
    authority = service.folder / "authority.crt"
    with ExitStack() as stack:
        yield [
            stack.enter_context(Load(port, number, authority=trusted, requests=requests, pause=0.05))
            for port, trusted in ((service.tls_port, authority), (service.port, None))
            for number, requests in ((24, 50), (8, 1))
        ]


def lost(tally: Tally) -> int:
    """Return how many handshakes and requests failed; an idle connection may be closed (RFC 9112, section 9.3)."""
    return tally.unopened + tally.unresponded + tally.broken + tally.wrong + tally.waiting


def episode(service: Service, record: Record, seconds: float, *, kill: bool) -> None:
    """Do one thing after the other to a loaded service, for about so long."""
    done: list[str] = []
    with loads(service) as running:
        try:
            for each in running:
                each.opened()
        except OSError as error:
            record.failures.append(f"{service.workers} workers: {error!r}")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            action = faults.kill_worker if kill else random.choice(faults.LOSSLESS)
            try:
                done.append(action(service))
            except (TimeoutError, OSError, IndexError) as error:  # IndexError: a process that should be there is not
                record.failures.append(f"{service.workers} workers: {action.__name__} after {done[-3:]}: {error!r}")
                break
        tally = Tally.sum([each.end() for each in running])
    record.actions.update(done)
    (record.killed if kill else record.lossless).append(tally)
    if tally.wrong or (lost(tally) and not kill):
        record.failures.append(f"{service.workers} workers: {tally} after {done}")


def print_progress(record: Record) -> None:
    """Print what has been done so far."""
    tally = Tally.sum([*record.lossless, *record.killed])
    print(
        f"{sum(record.actions.values())} actions, {tally.opened} connections, {tally.responded} responses,"
        f" {len(record.failures)} failures",
        *record.failures,
        sep="\n",
        flush=True,
    )


@contextmanager
def serving(folder: Path, workers: int, output: str, failures: list[str]) -> Iterator[Service]:
    """Run the service with a pair of a new authority, and stop it; what it did wrong is added to `failures`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.crt"))
    faults.by_renaming(folder, faults.issue(authority, "RSA-2048"))
    settings = (ROOT / "server.toml").read_text().replace("certificate_interval = 5", "certificate_interval = 1")
    (folder / "server.toml").write_text(settings)
    ports = free_variables()
    port, tls_port = int(ports["PORT"]), int(ports["TLS_PORT"])
    variables = ports | {"WORKERS": str(workers)}
    variables |= {"TLS_CERT": str(folder / "server.crt"), "TLS_KEY": str(folder / "server.key")}
    reader, writer = os.pipe()
    os.close(reader)  # so that whatever is written to the other end fails
    with (
        faults.control_group(f"campaign-{os.getpid()}-{port}") as group,
        os.fdopen(writer, "wb") as closed,
        Path("/dev/full").open("wb") as full,
        (folder / "output").open("wb") as file,
    ):
        if group is None:
            print("no control group can be made here: forks do not fail", file=sys.stderr)
        where = {"file": file, "full": full, "closed": closed}[output]
        process = subprocess.Popen(
            faults.in_group([sys.executable, "-m", "app", f"--config={folder / 'server.toml'}"], group),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]} | variables,
            stdin=subprocess.DEVNULL,
            stdout=where,
            stderr=where,
            start_new_session=True,  # without a terminal, which would make SIGHUP a stop
        )
        service = Service(process, port, tls_port, folder, authority, workers, group)
        try:
            wait_until(lambda: _responds(service), "the first handshake", 30)
            wait_until(service.is_whole, "all workers", 30)
            yield service
            descendants = proc.descendants(process.pid)
            process.terminate()
            if (status := process.wait(soak.STOP_DEADLINE)) != 0:
                failures.append(f"{workers} workers: the service ended with {status}")
            if left := [each for each in descendants if proc.is_running(each)]:
                failures.append(f"{workers} workers: left behind: {left}")
        finally:
            if process.poll() is None:
                process.kill()  # the kernel kills its descendants with it
                process.wait()
    print((folder / "output").read_text()[-2000:] if failures else "", end="", file=sys.stderr)


def _responds(service: Service) -> bool:
    try:
        return bool(service.leaf())
    except OSError:
        return False


def settle(service: Service, rest: float) -> tuple[float, list[int]]:
    """Wait until it has the processes that it starts with; return its memory in MiB, and the open files of each.

    A worker's allocator keeps some of what the largest load needed (docs/reliability.md), so each gets one that is
    larger than all others first. Then it rests, with a few requests: only when called does the allocator give back.
    """
    wait_until(service.is_whole, "the processes of the start", faults.RENEWED_WITHIN)
    target = soak.Target(service.process.pid, service.port, service.tls_port, service.folder / "authority.crt")
    for connections, seconds in ((PEAK, rest / 8), (64, rest / 2)):
        for tls in (True, False):
            soak.hold(target, connections, seconds, 500, tls=tls)
    processes = [service.process.pid, *proc.descendants(service.process.pid)]
    wait_until(lambda: proc.open_connections(service.port, service.tls_port) == 0, "the end of all connections", 30)
    return target.memory()["anonymous"], sorted(map(proc.open_files, processes))


def campaign(workers: int, seconds: float, output: str, rest: float = soak.REST) -> dict[str, Any]:
    """Do to a service of so many workers whatever there is, for about so long; return the figures.

    Memory is compared after a rest in which the allocator can give back (10 s), not after a shorter one.
    """
    record = Record()
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        folder = Path(name)
        with serving(folder, workers, output, record.failures) as service:
            faults.hang_up(service)  # the first reload makes its launcher grow, once (docs/reliability.md)
            before = settle(service, rest)
            end = time.monotonic() + seconds
            while time.monotonic() < end and service.process.poll() is None:
                episode(
                    service, record, min(EPISODE, seconds), kill=(len(record.lossless) + len(record.killed)) % 6 == 5
                )
                faults.free_disk(folder)
                print_progress(record)
            after = settle(service, rest)
    if after[1] != before[1]:
        record.failures.append(f"{workers} workers: open files {before[1]} became {after[1]}")
    if rest >= soak.REST and after[0] > before[0] * GROWN:
        record.failures.append(f"{workers} workers: memory grew from {before[0]} to {after[0]} MiB")
    tally = Tally.sum(record.lossless)
    return {
        "workers": workers,
        "output": output,
        "seconds": round(seconds),
        "actions": dict(record.actions.most_common()),
        "tally": asdict(tally),
        "lost": lost(tally),
        "killed": {"lost": sum(map(lost, record.killed)), "idle": sum(each.idle for each in record.killed)},
        "memory": [before[0], after[0]],
        "failures": record.failures,
    }


def section(figures: dict[str, Any]) -> str:
    """Return what docs/reliability.md shows of a campaign, with its markers."""
    head = "| workers | minutes | actions | handshakes and connections | responses, all verified | lost | MiB before, after |"
    rows = [
        f"| {each['workers']} | {each['seconds'] / 60:.0f} | {sum(each['actions'].values())} | {each['tally']['opened']:,}"
        f" | {each['tally']['responded']:,} | {each['lost']} | {each['memory'][0]}, {each['memory'][1]} |"
        for each in figures["results"]
    ]
    actions: Counter[str] = sum((Counter(each["actions"]) for each in figures["results"]), Counter())
    done = "; ".join(f"{name} {number}" for name, number in sorted(actions.items()))
    where = (
        f"{figures['date']}, {figures['command']}; {figures['cpus']} CPUs, Linux {figures['kernel']}, Python"
        f" {figures['python']}:"
    )
    table = "\n".join([head, "|" + " --- |" * 7, *rows])
    failures = [failure for each in figures["results"] for failure in each["failures"]] or ["none"]
    paragraphs = [_wrapped(where), table, _wrapped(f"Failures: {'; '.join(failures)}."), _wrapped(f"Actions: {done}.")]
    return f"{BEGIN}\n" + "\n\n".join(paragraphs) + f"\n{END}"


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)


def main() -> int:
    """Run the campaign; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="in all (60)")
    parser.add_argument("--seed", type=int, help="repeat the choices of a run that printed it")
    arguments = parser.parse_args()
    number = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(3))
    random.seed(number)
    print(f"--seed {number}", flush=True)
    results = []
    for workers, output in zip(WORKERS, OUTPUTS, strict=True):
        results.append(campaign(workers, arguments.minutes * 60 / len(WORKERS), output))
        print(*results[-1]["failures"], sep="\n", flush=True)
    command = f"`python -m bench.campaign --minutes {arguments.minutes:g} --seed {number}`"
    figures = reliability.circumstances(command) | {"results": results}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    reliability.put(section(figures), BEGIN, END)
    return 1 if any(each["failures"] for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The command: `python -m tests.soak [--scale SHARE] [--minutes MINUTES]` loads the service until something gives way.

It writes its figures to docs/reliability-figures.json, and what docs/reliability.md says of them between its markers.
"""

import argparse
import json
import os
import platform
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trustme

from tests.conftest import ROOT, Service, wait_until
from tests.load import Load, Tally

FIGURES = ROOT / "docs" / "reliability-figures.json"
DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"
RETURNED = 1.1  # memory afterwards over memory before
REST = 24.0  # seconds, a half for each listener
CONNECTIONS_OF_A_CLIENT = 4096
Figures = dict[str, Any]


def processes(service: Service) -> list[int]:
    """The launcher and all that it started."""
    service.remember()
    return [service.process.pid, *(pid for pid in sorted(service.descendants) if Path(f"/proc/{pid}").exists())]


def memory(service: Service) -> dict[str, float]:
    """MiB of the whole tree (proc(5), smaps_rollup).

    `anonymous` is its share of the anonymous pages, which is what can leak: pages of libraries count less whenever
    somebody else's process maps them too. `uss` is what its processes have each for themselves.
    """
    anonymous = uss = 0
    for pid in processes(service):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kib = {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB$", rollup, re.MULTILINE)}
        anonymous += kib["Pss_Anon"]
        uss += kib["Private_Clean"] + kib["Private_Dirty"]
    return {"anonymous": round(anonymous / 1024, 1), "uss": round(uss / 1024, 1)}


def open_files(service: Service) -> list[int]:
    """How many files each worker has open."""
    workers = [worker for granian in service.granians for worker in service.workers(granian)]
    return [len(list(Path(f"/proc/{worker}/fd").iterdir())) for worker in workers]


def port(service: Service, authority: Path | None) -> int:
    return service.tls_port if authority else service.port


def hold(service: Service, authority: Path | None, connections: int, seconds: float, rate: float) -> Tally:
    """Keep connections open, and send `rate` requests a second on them in all."""
    number = -(-connections // CONNECTIONS_OF_A_CLIENT)
    with Load(
        port(service, authority), connections, authority=authority, pause=connections / rate, processes=number
    ) as load:
        load.opened()
        load.begin()
        time.sleep(seconds)
        return load.end()


def renew(service: Service, authority: Path, connections: int, seconds: float) -> Tally:
    """Open connections over and over, so many at once, and send a request on each."""
    with Load(port(service, authority), connections, authority=authority, requests=1) as load:
        time.sleep(seconds)
        return load.end()


def measure(
    service: Service,
    name: str,
    load: Callable[[float], Tally],
    seconds: float,
    trust: Path,
    rest: float = 0.0,
    rounds: int = 1,
) -> Figures:
    """Apply a load for up to 30 s to warm up, then for `rounds` rounds, and look at what is left after each.

    Between them the service is asked a few requests for `rest` seconds: Granian's allocator (jemalloc) gives memory back
    10 s after it was freed, and only when it is called again.
    """
    idle = open_files(service)

    def settled() -> dict[str, float]:
        if rest:
            for authority in (trust, None):
                hold(service, authority, 16, rest / 2, 500)
        wait_until(lambda: open_files(service) == idle, f"{idle} open files in the workers", 30)
        return memory(service)

    cold = memory(service)
    warm_up = load(min(seconds, 30.0))
    before = settled()
    tallies, after = [], []
    for _ in range(rounds):
        tallies.append(load(seconds / rounds))
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
        "seconds": seconds,
        "connections": tally.opened,
        "answered": tally.answered,
        "failed": tally.failed,
        "longest": round(tally.longest, 2),
        "cold": cold,
        "before": before,
        "after": after,
        "growth": round(growth, 3),
        "open_files": idle,
        "failures": failures,
    }


def held(service: Service, trust: Path, connections: int, seconds: float, rest: float = 0.0, *, tls: bool) -> Figures:
    """Measure connections that are held open and used, by 4,000 requests a second in all."""
    return measure(
        service,
        f"{connections:,} {'TLS' if tls else 'plaintext'} connections held open",
        lambda share: hold(service, trust if tls else None, connections, share, 4000),
        seconds,
        trust,
        rest,
    )


def handshakes(service: Service, trust: Path, connections: int, seconds: float, rest: float = 0.0) -> Figures:
    """Measure handshakes over and over, with one request each."""
    return measure(
        service,
        f"{connections:,} clients that make TLS handshakes over and over",
        lambda share: renew(service, trust, connections, share),
        seconds,
        trust,
        rest,
    )


def soak(service: Service, trust: Path, connections: int, seconds: float, rounds: int, rest: float = 0.0) -> Figures:
    """Measure connections that come and go on both listeners."""

    def load(share: float) -> Tally:
        with ExitStack() as stack:
            loads = [
                stack.enter_context(
                    Load(port(service, authority), connections, authority=authority, requests=20, pause=0.02)
                )
                for authority in (trust, None)
            ]
            time.sleep(share)
            return Tally.sum([each.end() for each in loads])

    return measure(
        service,
        f"{2 * connections:,} connections that come and go on both listeners",
        load,
        seconds,
        trust,
        rest,
        rounds,
    )


def table(results: list[Figures]) -> str:
    """Write the figures as a Markdown table."""
    head = (
        "| load | s | connections opened | answers, all verified | failed | slowest answer, s | MiB cold, warm, after |"
    )
    rows = [
        f"| {each['name']} | {each['seconds']:.0f} | {each['connections']:,} | {each['answered']:,} | {each['failed']}"
        f" | {each['longest']:.2f} | {each['cold']['anonymous']}, {each['before']['anonymous']},"
        f" {' '.join(str(level['anonymous']) for level in each['after'])} ({each['growth']:.2f}) |"
        for each in results
    ]
    return "\n".join([head, "|" + " --- |" * 7, *rows])


def section(figures: Figures) -> str:
    """Write what a run measured."""
    return (
        f"{BEGIN}\n{figures['date']}, {figures['command']}; {figures['cpus']} CPUs, Linux {figures['kernel']}, Python"
        f" {figures['python']}:\n\n{table(figures['results'])}\n{END}"
    )


def write(figures: Figures) -> None:
    """Keep the figures, and put them into the document."""
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{section(figures)}{after}")


def main() -> int:
    """Load the service in all ways; the exit status is 1 when anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, metavar="SHARE", help="of the connections (1.0)")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of connections that come and go (10); of other loads a fifth"
    )
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60

    def scaled(connections: int) -> int:
        return max(16, int(connections * arguments.scale))

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    plaintext = min(scaled(16384), hard - 1000)  # room for what else a worker and the client have open
    results: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "authority.crt"))
        leaf = authority.issue_cert("localhost")
        leaf.private_key_pem.write_to_path(str(folder / "server.key"))
        leaf.cert_chain_pems[0].write_to_path(str(folder / "server.crt"))
        trust = folder / "authority.crt"
        loads: list[Callable[[Service], Figures]] = [
            lambda service: held(service, trust, scaled(4096), seconds / 5, REST, tls=True),
            lambda service: held(service, trust, plaintext, seconds / 5, REST, tls=False),
            lambda service: handshakes(service, trust, scaled(1024), seconds / 5, REST),
            lambda service: handshakes(service, trust, scaled(1536), seconds / 5, REST),
            lambda service: soak(service, trust, scaled(512), seconds, 5, REST),
        ]
        for load in loads:
            service = Service(folder, TLS_CERT=str(folder / "server.crt"), TLS_KEY=str(folder / "server.key"))
            try:
                figures = load(service.ready())
                service.stop()
                if said := service.errors.read_text():
                    figures["failures"].append(f"the service said: {said}")
            finally:
                service.destroy()
            results.append(figures)
            print(table([figures]).splitlines()[-1], *figures["failures"], sep="\n", flush=True)
    write(
        {
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "command": f"`python -m tests.soak --scale {arguments.scale:g} --minutes {arguments.minutes:g}`",
            "cpus": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "results": results,
        }
    )
    return 1 if any(figures["failures"] for figures in results) else 0


if __name__ == "__main__":
    sys.exit(main())

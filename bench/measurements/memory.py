"""The own memory (USS) of this service: by workers, and by TLS connection."""

import contextlib
import socket
import ssl
import subprocess
import time

from bench.generators import MeasurementError, parse_wrk, wrk
from bench.listeners import ENABLED
from bench.measurements.base import Aim, Measurement, Step, Table
from bench.plan import Plan
from bench.processes import Running, confined, started
from bench.subjects import SERVICE, SUBJECTS

WORKERS = (1, 2, 4, 8)
CONNECTIONS = 1000
LOAD_SECONDS = 6
SECONDS = 20.0


class MemoryByWorkers(Measurement, tag="memory-by-workers"):
    """MiB of all processes together, by workers of each idle listener."""

    mib: dict[int, float]

    def table(self) -> Table:
        """Return a row for each number of workers."""
        by = "workers of each listener, all idle"
        rows = [[str(workers), f"{mib:.1f}"] for workers, mib in self.mib.items()]
        return Table(f"This service by {by}", [by, "MiB of its own, in all"], rows)

    def aims(self) -> list[Aim]:
        """Bound what an idle worker adds."""
        if not {4, 8} <= self.mib.keys():
            return []
        each = (self.mib[8] - self.mib[4]) / (4 * len(ENABLED))  # four more workers of each listener
        return [Aim("an idle worker's own memory", 8, each, "MiB", at_most=True)]


class MemoryByConnection(Measurement, tag="memory-by-connection"):
    """KiB that each of so many open TLS connections adds, idle and under load; None if that was not measured."""

    connections: int
    idle: float | None = None
    busy: float | None = None

    def table(self) -> Table:
        """Return a row for each figure that there is."""
        by = f"TLS connection ({self.connections} open)"
        figures = {"idle": self.idle, "busy, at most": self.busy}
        rows = [[name, f"{kib:.1f}"] for name, kib in figures.items() if kib is not None]
        return Table(f"This service by {by}", [by, "KiB of its own, each"], rows)


def measure(plan: Plan) -> list[Measurement]:
    """Measure both."""
    return [_by_workers(plan), _by_connection(plan)]


def _by_workers(plan: Plan) -> MemoryByWorkers:
    mib: dict[int, float] = {}
    try:
        for workers in WORKERS:
            plan.tell(f"memory at {workers} workers", SECONDS / 5)
            with started(SUBJECTS[0], plan, "json-tls", plan.pairs["RSA-2048"], workers) as run:
                mib[workers] = run.own_memory() / 2**20
    except MeasurementError as error:
        return MemoryByWorkers(errors={SERVICE: str(error)}, mib=mib)
    return MemoryByWorkers(mib=mib)


def _by_connection(plan: Plan) -> MemoryByConnection:
    plan.tell("memory by connections", SECONDS / 5)
    pair = plan.pairs["RSA-2048"]
    context = ssl.create_default_context()
    pair.authority.configure_trust(context)
    try:
        with started(SUBJECTS[0], plan, "json-tls", pair) as run:
            run.resume()
            before = run.own_memory()
            idle = _with_idle_connections(run, context)
            busy = max(before, _under_load(run, plan))
    except MeasurementError as error:
        return MemoryByConnection(errors={SERVICE: str(error)}, connections=CONNECTIONS)
    each = 2**10 * CONNECTIONS
    return MemoryByConnection(connections=CONNECTIONS, idle=(idle - before) / each, busy=(busy - before) / each)


def _with_idle_connections(run: Running, context: ssl.SSLContext) -> int:
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            client = socket.create_connection(("127.0.0.1", run.place.port))
            stack.enter_context(context.wrap_socket(client, server_hostname="localhost"))
        return run.own_memory()


def _under_load(run: Running, plan: Plan) -> int:
    command = confined(wrk(run.url, CONNECTIONS, LOAD_SECONDS), plan.load_cpus)
    most = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        while load.poll() is None:
            most = max(most, run.own_memory())
            time.sleep(0.1)
        parse_wrk(load.communicate()[0])
    return most


RESULTS = (MemoryByWorkers, MemoryByConnection)
STEPS = (Step("memory", measure, lambda _: SECONDS),)

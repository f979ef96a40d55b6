"""Bursts in turn, and what follows from them."""

import contextlib
import math
import os
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from bench import app as in_process
from bench import oracle
from bench.generators import Burst, MeasurementError, Storm, h2load, parse_h2load, parse_wrk, wrk
from bench.subjects import Place, Running, Subject

START_DEADLINE = 15.0
Tell = Callable[[str], None]
Figure = TypeVar("Figure")


@dataclass
class Plan:
    """How much is measured."""

    subjects: Sequence[Subject]
    tell: Tell
    rounds: int = 5
    seconds: int = 1
    server_cpus: set[int] = field(default_factory=lambda: set(sorted(os.sched_getaffinity(0))[:1]))
    load_cpus: set[int] = field(default_factory=lambda: set(sorted(os.sched_getaffinity(0))[1:]))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Compare two series burst by burst: the median of the ratios, and the span of the middle half."""
    each = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    if len(each) < 2:
        return {"median": each[0], "low": each[0], "high": each[0]}
    low, _, high = statistics.quantiles(each, n=4, method="inclusive")
    return {"median": statistics.median(each), "low": low, "high": high}


def order(number: int, of: int) -> list[int]:
    """Give the turns of a round: A B C, then C B A."""
    turns = list(range(of))
    return turns if number % 2 == 0 else turns[::-1]


def loaded(command: list[str], cpus: set[int], timeout: float) -> str:
    """Run a load generator on its own CPUs and return its output."""
    confined = ["taskset", "--cpu-list", ",".join(map(str, sorted(cpus))), *command]
    try:
        result = subprocess.run(confined, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"{command[0]} did not end within {timeout} s") from error
    if result.returncode:
        raise MeasurementError(f"{command[0]} ended with {result.returncode}: {result.stderr.strip()[-200:]}")
    return result.stdout


def free_port() -> int:
    """Find a port that nobody has."""
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])


class Pair:
    """An authority and a pair that it signed, RSA-2048 as the arena's or P-256."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Make them."""
        self.authority = trustme.CA()
        key_type = trustme.KeyType.RSA if kind == "RSA-2048" else trustme.KeyType.ECDSA
        leaf = self.authority.issue_cert("127.0.0.1", "localhost", key_type=key_type)
        self.certificate, self.key = folder / f"{kind}.crt", folder / f"{kind}.key"
        leaf.private_key_pem.write_to_path(str(self.key))
        leaf.cert_chain_pems[0].write_to_path(str(self.certificate))
        public = x509.load_pem_x509_certificate(self.certificate.read_bytes()).public_key()
        if isinstance(public, rsa.RSAPublicKey) != (kind == "RSA-2048"):
            raise RuntimeError(f"the authority made another key than {kind}")


@contextlib.contextmanager
def started(subject: Subject, plan: Plan, pair: Pair | None, workers: int = 1) -> Iterator[Running]:
    """Start a subject, compare its bodies with the oracle's, pause it; end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Place(
            folder=Path(folder),
            port=free_port(),
            spare_port=free_port(),
            certificate=pair.certificate if pair else None,
            key=pair.key if pair else None,
            pairs=(*oracle.MIX, *oracle.CHECKS),
            workers=workers,
        )
        running = Running(subject, place, plan.server_cpus)
        try:
            context = ssl.create_default_context()
            if pair:
                pair.authority.configure_trust(context)
            with httpx.Client(base_url=running.url, verify=context, trust_env=False) as client:
                _await(client, running)
                for count, multiplier in place.pairs:
                    if client.get(f"/json/{count}?m={multiplier}").content != oracle.body(count, multiplier):
                        raise MeasurementError(f"a wrong body for count={count} m={multiplier}")
            running.pause()
            yield running
        finally:
            running.end()


def _await(client: httpx.Client, running: Running) -> None:
    end = time.monotonic() + START_DEADLINE
    while True:
        try:
            client.get("/json/1?m=3")
        except httpx.TransportError as error:
            if not running.is_alive() or time.monotonic() > end:
                log = running.log.read_text(errors="replace").strip()[-300:]
                raise MeasurementError(f"it does not answer: {error}; its log ends {log!r}") from error
            time.sleep(0.05)
        else:
            return


def in_turn(
    plan: Plan, pair: Pair | None, what: str, measure: Callable[[Running], Figure]
) -> tuple[dict[str, list[Figure]], dict[str, str]]:
    """Measure all subjects in turn, round after round; return the figures, and the errors of those that failed."""
    figures: dict[str, list[Figure]] = {}
    errors: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        runs: list[Running] = []
        for subject in plan.subjects:
            try:
                runs.append(stack.enter_context(started(subject, plan, pair)))
            except MeasurementError as error:
                errors[subject.name] = str(error)
        for number in range(plan.rounds):
            for index in order(number, len(runs)):
                run = runs[index]
                name = run.subject.name
                if name in errors:
                    continue
                plan.tell(f"{what}: round {number + 1} of {plan.rounds}, {name}")
                run.resume()
                try:
                    figures.setdefault(name, []).append(measure(run))
                    run.must_be_alive()
                except MeasurementError as error:
                    errors[name] = str(error)
                    figures.pop(name, None)
                finally:
                    run.pause()
    return figures, errors


def against_first(plan: Plan, series: dict[str, list[float]]) -> dict[str, dict[str, float] | None]:
    """Compare each subject's series with the first subject's; None where that has none."""
    first = series.get(plan.subjects[0].name)
    return {name: ratios(each, first) if first else None for name, each in series.items()}


def throughput(plan: Plan, pair: Pair | None, connections: int) -> dict[str, Any]:
    """Measure requests a second and latencies at so many connections, the arena's mix."""
    profile = "json-tls" if pair else "json"
    # Thousands of TLS handshakes take seconds before there is a rate to measure.
    seconds = plan.seconds if connections < 1000 else 8 * plan.seconds

    def burst(run: Running) -> Burst:
        output = loaded(wrk(run.url, connections, seconds), plan.load_cpus, seconds + 30)
        return parse_wrk(output)

    bursts, errors = in_turn(plan, pair, f"{profile}, {connections} connections", burst)
    compared = against_first(plan, {name: [each.rps for each in series] for name, series in bursts.items()})
    return {
        "measurement": "throughput",
        "profile": profile,
        "connections": connections,
        "command": " ".join(wrk("URL", connections, seconds)),
        "subjects": {
            name: {
                "rps": statistics.median(each.rps for each in series),
                "p50": statistics.median(each.p50 for each in series),
                "p99": statistics.median(each.p99 for each in series),
                "ratio": compared[name],
                "bursts": [asdict(each) for each in series],
            }
            for name, series in bursts.items()
        },
        "errors": errors,
    }


def storm(plan: Plan, pair: Pair, connections: int, kind: str) -> dict[str, Any]:
    """Open so many TLS connections at once, four requests each; measure the time to the last answer."""
    requests = connections * 4

    def one(run: Running) -> Storm:
        return parse_h2load(
            loaded(h2load(f"{run.url}/json/10?m=2", connections, requests), plan.load_cpus, 120), requests
        )

    storms, errors = in_turn(plan, pair, f"{connections} handshakes at once, {kind}", one)
    compared = against_first(plan, {name: [each.seconds for each in series] for name, series in storms.items()})
    return {
        "measurement": "storm",
        "connections": connections,
        "key": kind,
        "command": " ".join(h2load("URL", connections, requests)),
        "subjects": {
            name: {
                "seconds": statistics.median(each.seconds for each in series),
                "ratio": compared[name],
                "runs": [asdict(each) for each in series],
            }
            for name, series in storms.items()
        },
        "errors": errors,
    }


def tax(plain: dict[str, Any], encrypted: dict[str, Any]) -> dict[str, Any]:
    """Say what TLS takes of each subject's rate. Of two measurements, hence of medians and not of pairs."""
    both = plain["subjects"].keys() & encrypted["subjects"].keys()
    return {
        "measurement": "tax",
        "connections": plain["connections"],
        "subjects": {
            name: 1 - encrypted["subjects"][name]["rps"] / plain["subjects"][name]["rps"]
            for name in plain["subjects"]
            if name in both
        },
    }


def request_cost() -> dict[str, Any]:
    """Measure a request in process against msgspec's encode."""
    return {"measurement": "in process", **in_process.measure()}


def percentile(series: Sequence[float], share: float) -> float:
    """Give the value below or at which `share` per cent of a series lie."""
    ranked = sorted(series)
    return ranked[max(0, math.ceil(len(ranked) * share / 100) - 1)]


def steady(plan: Plan, pair: Pair, rate: int) -> dict[str, Any]:
    """Measure latency under so many requests a second, well below saturation, over TLS, from 32 connections."""
    clients, seconds = 32, 4
    command = ["h2load", "--h1", "-c", str(clients), f"--rps={rate / clients:g}", "-D", str(seconds)]

    def one(run: Running) -> list[float]:
        log = run.place.folder / "latencies"
        log.unlink(missing_ok=True)
        output = loaded([*command, f"--log-file={log}", f"{run.url}/json/25?m=4"], plan.load_cpus, seconds + 30)
        lines = [line.split("\t") for line in log.read_text().splitlines()]
        if (
            not lines
            or any(status != "200" for _, status, _ in lines)
            or " 0 failed, 0 errored, 0 timeout" not in output
        ):
            raise MeasurementError(f"h2load: {[line for line in output.splitlines() if line.startswith('requests')]}")
        if len(lines) < rate * seconds * 0.9:
            raise MeasurementError(f"{len(lines) / seconds:.0f} requests a second instead of {rate}: it is saturated")
        return [float(microseconds) / 1e3 for _, _, microseconds in lines]

    series, errors = in_turn(plan, pair, f"steady {rate} requests a second", one)
    compared = against_first(plan, {name: [percentile(each, 99) for each in runs] for name, runs in series.items()})
    return {
        "measurement": "steady",
        "rate": rate,
        "command": " ".join([*command, "URL"]),
        "subjects": {
            name: {
                "p50": statistics.median(percentile(each, 50) for each in runs),
                "p99": statistics.median(percentile(each, 99) for each in runs),
                "ratio": compared[name],
            }
            for name, runs in series.items()
        },
        "errors": errors,
    }


def growth_by_count(plan: Plan, pair: Pair) -> dict[str, Any]:
    """Measure this service's rate over TLS for each of the mix's counts, one count a burst, in turn."""
    ours = replace(plan, subjects=plan.subjects[:1])
    counts = [count for count, _ in oracle.MIX]

    def bursts(run: Running) -> list[float]:
        return [
            parse_wrk(
                loaded([*wrk("", 256, 1)[:-3], f"{run.url}/json/{count}?m=7"], plan.load_cpus, 30),
            ).rps
            for count in counts
        ]

    series, errors = in_turn(ours, pair, "rate by count", bursts)
    rounds = series.get(ours.subjects[0].name, [])
    rates = {
        str(count): statistics.median(each[index] for each in rounds) for index, count in enumerate(counts) if rounds
    }
    return {"measurement": "growth", "by": "count", "unit": "rps", "values": rates, "errors": errors}


def memory(plan: Plan, pair: Pair) -> list[dict[str, Any]]:
    """Measure this service's own memory (USS) by workers, and what an idle and a used TLS connection add to a worker."""
    ours, connections = plan.subjects[0], 1000
    by_workers = {}
    for workers in (1, 2, 4, 8):
        plan.tell(f"memory at {workers} workers")
        with started(ours, plan, pair, workers) as run:
            by_workers[str(workers)] = sum(each.memory_full_info().uss for each in run.tree()) / 2**20
    plan.tell("memory by connections")
    context = ssl.create_default_context()
    pair.authority.configure_trust(context)
    with started(ours, plan, pair) as run, contextlib.ExitStack() as stack:
        run.resume()

        def own() -> float:
            return sum(each.memory_full_info().uss for each in run.tree()) / 2**10

        before = own()
        clients = [
            stack.enter_context(
                context.wrap_socket(
                    socket.create_connection(("127.0.0.1", run.place.port)), server_hostname="localhost"
                )
            )
            for _ in range(connections)
        ]
        idle = own()
        for client in clients:
            client.sendall(b"GET /json/50?m=2 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        for client in clients:
            client.recv(1)
        used = own()
    return [
        {
            "measurement": "growth",
            "by": "workers, both listeners idle",
            "unit": "MiB of its own, in all",
            "values": by_workers,
        },
        {
            "measurement": "growth",
            "by": f"TLS connection ({connections} open)",
            "unit": "KiB of its own, each",
            "values": {"idle": (idle - before) / connections, "after a request": (used - before) / connections},
        },
    ]

"""Bursts in turn, and what follows from them."""

import contextlib
import math
import os
import re
import shlex
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from bench import app as in_process
from bench import oracle
from bench.generators import (
    Burst,
    MeasurementError,
    Storm,
    Streams,
    h2load,
    h2load_streams,
    parse_h2load,
    parse_h2load_streams,
    parse_wrk,
    wrk,
)
from bench.subjects import Place, Running, Subject

START_DEADLINE = 15.0
OFFER = "gzip, br"  # as the arena's json-comp has it, and its counts
LARGER_COUNTS = "25 40 50"
Tell = Callable[[str], None]
Figure = TypeVar("Figure")
Figures = TypeVar("Figures", Burst, Streams)


@dataclass
class Plan:
    """How much is measured."""

    subjects: Sequence[Subject]
    tell: Tell
    rounds: int = 5
    seconds: int = 1
    server_cpus: set[int] = field(default_factory=lambda: set(sorted(os.sched_getaffinity(0))[:1]))
    load_cpus: set[int] = field(default_factory=lambda: set(sorted(os.sched_getaffinity(0))[1:]))

    def of(self, profile: str) -> "Plan":
        """Leave the subjects that are not measured for a profile."""
        return replace(self, subjects=[each for each in self.subjects if profile in each.profiles])


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


def confined(command: list[str], cpus: set[int]) -> list[str]:
    """Write the command that runs another on those CPUs alone."""
    return ["taskset", "--cpu-list", ",".join(map(str, sorted(cpus))), *command]


def loaded(command: list[str], cpus: set[int], timeout: float) -> str:
    """Run a load generator on its own CPUs and return its output."""
    try:
        result = subprocess.run(confined(command, cpus), capture_output=True, text=True, timeout=timeout, check=False)
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
def started(subject: Subject, plan: Plan, profile: str, pair: Pair | None, workers: int = 1) -> Iterator[Running]:
    """Start a subject, compare its bodies with the oracle's, pause it; end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Place(
            profile=profile,
            folder=Path(folder),
            port=free_port(),
            spare_ports=(free_port(), free_port()),
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
            h2c = profile == "json-h2c"
            headers = {"accept-encoding": OFFER if profile == "json-comp" else ""}
            with httpx.Client(
                base_url=running.url, verify=context, trust_env=False, http1=not h2c, http2=h2c, headers=headers
            ) as client:
                _await(client, running)
                for count, multiplier in place.pairs:
                    response = client.get(f"/json/{count}?m={multiplier}")
                    if response.content != oracle.body(count, multiplier):
                        raise MeasurementError(f"a wrong body for count={count} m={multiplier}")
                    if count >= 25 and ("content-encoding" in response.headers) != (profile == "json-comp"):
                        raise MeasurementError("a body is compressed unasked, or not when asked")
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
    plan: Plan, profile: str, pair: Pair | None, what: str, measure: Callable[[Running], Figure]
) -> tuple[dict[str, list[Figure]], dict[str, str]]:
    """Measure all subjects in turn, round after round; return the figures, and the errors of those that failed."""
    figures: dict[str, list[Figure]] = {}
    errors: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        runs: list[Running] = []
        for subject in plan.subjects:
            try:
                runs.append(stack.enter_context(started(subject, plan, profile, pair)))
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


def _bursts(
    plan: Plan, series: dict[str, list[Figures]], value: Callable[[Figures], float]
) -> dict[str, dict[str, Any]]:
    compared = against_first(plan, {name: [value(each) for each in bursts] for name, bursts in series.items()})
    return {
        name: {
            **{
                each.name: statistics.median(getattr(burst, each.name) for burst in bursts)
                for each in fields(bursts[0])
            },
            "octets": statistics.median(each.transfer / each.rps for each in bursts),
            "ratio": compared[name],
            "bursts": [asdict(each) for each in bursts],
        }
        for name, bursts in series.items()
    }


def throughput(plan: Plan, pair: Pair | None, connections: int) -> dict[str, Any]:
    """Measure requests a second and latencies at so many connections, the arena's mix."""
    profile = "json-tls" if pair else "json"
    plan = plan.of(profile)
    # Thousands of TLS handshakes take seconds before there is a rate to measure.
    seconds = plan.seconds * (1 if connections < 1000 else 20 if pair else 8)

    def burst(run: Running) -> Burst:
        output = loaded(wrk(run.url, connections, seconds), plan.load_cpus, seconds + 30)
        return parse_wrk(output)

    bursts, errors = in_turn(plan, profile, pair, f"{profile}, {connections} connections", burst)
    return {
        "measurement": "throughput",
        "profile": profile,
        "connections": connections,
        "command": " ".join(wrk("URL", connections, seconds)),
        "subjects": _bursts(plan, bursts, lambda each: each.rps),
        "errors": errors,
    }


def compressed(plan: Plan, of: str, connections: int) -> dict[str, Any]:
    """Measure the arena's json-comp: rate over the square of the octets of an answer, headers among them.

    `of` is json-comp, or compressors: this service with each compressor that was considered.
    """
    plan = plan.of(of)

    def burst(run: Running) -> Burst:
        command = wrk(run.url, connections, plan.seconds, offer=OFFER, counts=LARGER_COUNTS)
        return parse_wrk(loaded(command, plan.load_cpus, plan.seconds + 30))

    bursts, errors = in_turn(plan, "json-comp", None, f"{of}, {connections} connections", burst)
    return {
        "measurement": "compressed",
        "of": of,
        "connections": connections,
        "command": shlex.join(wrk("URL", connections, plan.seconds, offer=OFFER, counts=LARGER_COUNTS)),
        "subjects": _bursts(plan, bursts, lambda each: each.rps / (each.transfer / each.rps) ** 2),
        "errors": errors,
    }


def multiplexed(plan: Plan, connections: int) -> dict[str, Any]:
    """Measure the arena's json-h2c: HTTP/2 in cleartext, 32 streams on each of so many connections."""
    plan = plan.of("json-h2c")
    streams, seconds = 32, 5 * plan.seconds

    def burst(run: Running) -> Streams:
        urls = [f"{run.url}/json/{count}?m={multiplier}" for count, multiplier in oracle.MIX]
        command = h2load_streams(urls, connections, streams, seconds)
        return parse_h2load_streams(loaded(command, plan.load_cpus, seconds + 60))

    bursts, errors = in_turn(plan, "json-h2c", None, f"json-h2c, {connections} connections", burst)
    return {
        "measurement": "multiplexed",
        "connections": connections,
        "command": " ".join(h2load_streams(["URL ..."], connections, streams, seconds)),
        "subjects": _bursts(plan, bursts, lambda each: each.rps),
        "errors": errors,
    }


def storm(plan: Plan, pair: Pair, connections: int, kind: str) -> dict[str, Any]:
    """Open so many TLS connections at once, four requests each; measure the time to the last answer."""
    plan = plan.of("json-tls")
    requests = connections * 4

    def one(run: Running) -> Storm:
        output = loaded(h2load(f"{run.url}/json/10?m=2", connections, requests), plan.load_cpus, 120)
        return parse_h2load(output, requests, len(oracle.body(10, 2)))

    storms, errors = in_turn(plan, "json-tls", pair, f"{connections} handshakes at once, {kind}", one)
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
    plan = plan.of("json-tls")
    clients, seconds = 32, 4
    command = ["h2load", "--h1", "-c", str(clients), f"--rps={rate / clients:g}", "-D", str(seconds)]

    def one(run: Running) -> list[float]:
        log = run.place.folder / "latencies"
        log.unlink(missing_ok=True)
        output = loaded([*command, f"--log-file={log}", f"{run.url}/json/25?m=4"], plan.load_cpus, seconds + 30)
        lines = [line.split("\t") for line in log.read_text().splitlines()]
        statuses = {status for _, status, _ in lines}
        # 0 is none: h2load has read no status (see parse_h2load), so that the octets have to be right. The time ends with
        # a request under way on each connection at most.
        octets, body = re.search(r"\((\d+)\) data", output), len(oracle.body(25, 4))
        whole = octets is not None and len(lines) * body <= int(octets[1]) < (len(lines) + clients) * body
        if not (statuses == {"200"} or (statuses == {"0"} and whole)) or " 0 errored, 0 timeout" not in output:
            raise MeasurementError(f"h2load: {[line for line in output.splitlines() if line.startswith('requests')]}")
        if len(lines) < rate * seconds * 0.9:
            raise MeasurementError(f"{len(lines) / seconds:.0f} requests a second instead of {rate}: it is saturated")
        return [float(microseconds) / 1e3 for _, _, microseconds in lines]

    series, errors = in_turn(plan, "json-tls", pair, f"steady {rate} requests a second", one)
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
        return [parse_wrk(loaded(wrk(run.url, 256, 1, counts=str(count)), plan.load_cpus, 30)).rps for count in counts]

    series, errors = in_turn(ours, "json-tls", pair, "rate by count", bursts)
    rounds = series.get(ours.subjects[0].name, [])
    rates = {
        str(count): statistics.median(each[index] for each in rounds) for index, count in enumerate(counts) if rounds
    }
    return {"measurement": "growth", "by": "count", "unit": "rps", "values": rates, "errors": errors}


def growth_by_workers(plan: Plan, pair: Pair) -> dict[str, Any]:
    """Measure this service's rate over TLS by workers, 1 to the number of CPUs.

    Workers and load share all CPUs: on a small machine there would be one worker otherwise.
    """
    cpus = plan.server_cpus | plan.load_cpus
    shared = replace(plan, server_cpus=cpus, load_cpus=cpus)
    numbers = [1 << power for power in range(len(cpus).bit_length()) if 1 << power <= len(cpus)]
    rounds: list[list[float]] = []
    errors: dict[str, str] = {}
    try:
        with contextlib.ExitStack() as stack:
            runs = [stack.enter_context(started(plan.subjects[0], shared, "json-tls", pair, each)) for each in numbers]
            for number in range(plan.rounds):
                rates = [0.0] * len(runs)
                for index in order(number, len(runs)):
                    plan.tell(f"rate by workers: round {number + 1} of {plan.rounds}, {numbers[index]} workers")
                    runs[index].resume()
                    rates[index] = parse_wrk(loaded(wrk(runs[index].url, 256, 1), cpus, 30)).rps
                    runs[index].must_be_alive()
                    runs[index].pause()
                rounds.append(rates)
    except MeasurementError as error:
        errors = {plan.subjects[0].name: str(error)}
    return {
        "measurement": "growth",
        "by": "workers, on CPUs shared with the load",
        "unit": "rate, that of one worker = 1",
        "values": {
            str(workers): statistics.median(rates[index] / rates[0] for rates in rounds)
            for index, workers in enumerate(numbers)
            if not errors
        },
        "errors": errors,
    }


def memory(plan: Plan, pair: Pair) -> list[dict[str, Any]]:
    """Measure this service's own memory (USS) by workers, and what an idle and a used TLS connection add to a worker."""
    ours, connections = plan.subjects[0], 1000
    by_workers = {}
    for workers in (1, 2, 4, 8):
        plan.tell(f"memory at {workers} workers")
        with started(ours, plan, "json-tls", pair, workers) as run:
            by_workers[str(workers)] = sum(each.memory_full_info().uss for each in run.tree()) / 2**20
    plan.tell("memory by connections")
    context = ssl.create_default_context()
    pair.authority.configure_trust(context)
    with started(ours, plan, "json-tls", pair) as run, contextlib.ExitStack() as stack:
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
            client.close()
        seconds = 6
        load = subprocess.Popen(
            confined(wrk(run.url, connections, seconds), plan.load_cpus), stdout=subprocess.PIPE, text=True
        )
        stack.callback(load.wait)
        samples = [before]
        while load.poll() is None:
            samples.append(own())
            time.sleep(0.1)
        parse_wrk(load.communicate()[0])
        busy = max(samples)
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
            "values": {"idle": (idle - before) / connections, "busy, at most": (busy - before) / connections},
        },
    ]

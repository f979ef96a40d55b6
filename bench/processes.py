"""Processes confined to CPUs: subjects, which can be paused, and load generators."""

import contextlib
import os
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from bench import ROOT, oracle, proc
from bench.generators import MeasurementError
from bench.plan import Pair, Plan
from bench.ports import free_ports
from bench.subjects import ARENA, Place, Subject

START_DEADLINE = 15.0
END_DEADLINE = 6.0
INTERVAL = 0.05
"""Seconds between two samples of a subject's CPU time."""
OFFER = "gzip, br"
"""The Accept-Encoding of the arena's json-comp."""


def confined(command: list[str], cpus: set[int]) -> list[str]:
    """Write the command that runs another on those CPUs alone."""
    return ["taskset", "--cpu-list", ",".join(map(str, sorted(cpus))), *command]


def loaded(command: list[str], cpus: set[int], timeout: float) -> str:
    """Run a load generator on its own CPUs and return its output.

    Raises MeasurementError if it fails, or runs for more than `timeout` seconds.
    """
    try:
        result = subprocess.run(confined(command, cpus), capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"{command[0]} did not end within {timeout} s") from error
    if result.returncode:
        raise MeasurementError(f"{command[0]} ended with {result.returncode}: {result.stderr.strip()[-200:]}")
    return result.stdout


class Sample(NamedTuple):
    """The CPU time that a subject's processes had used at a moment; seconds, since the epoch and of all threads."""

    time: float
    cpu: float


def observed(run: "Running", command: list[str], cpus: set[int], timeout: float) -> tuple[str, list[Sample]]:
    """Run a load generator as `loaded` does; return its output, and the subject's CPU time every INTERVAL seconds."""
    pids = [run.process.pid, *proc.descendants(run.process.pid)]
    samples: list[Sample] = []
    end = time.monotonic() + timeout
    with subprocess.Popen(
        confined(command, cpus), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as generator:
        while True:
            samples.append(Sample(time.time(), proc.cpu_time(pids)))
            try:
                output, errors = generator.communicate(timeout=INTERVAL)
            except subprocess.TimeoutExpired:
                if time.monotonic() < end:
                    continue
                generator.kill()
                raise MeasurementError(f"{command[0]} did not end within {timeout:.0f} s") from None
            break
    if generator.returncode:
        raise MeasurementError(f"{command[0]} ended with {generator.returncode}: {errors.strip()[-200:]}")
    return output, samples


class Running:
    """A subject that runs, as a tree of processes."""

    def __init__(self, subject: Subject, place: Place, cpus: set[int]) -> None:
        """Start it; what it prints goes to `log`."""
        command, environment = subject.command(place)
        self.subject, self.place = subject, place
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.log = place.folder / "log"
        with self.log.open("wb") as log:
            self.process = psutil.Popen(
                confined(command, cpus),
                cwd=ROOT,
                env=keep | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def url(self) -> str:
        """Scheme, host and port, without a path."""
        return f"{'https' if self.place.tls else 'http'}://127.0.0.1:{self.place.port}"

    def tree(self) -> list[psutil.Process]:
        """List its processes."""
        return [self.process, *self.process.children(recursive=True)]

    def own_memory(self) -> int:
        """Bytes that its processes share with no other (USS), in all."""
        return sum(each.memory_full_info().uss for each in self.tree())

    def cpu(self) -> float:
        """Seconds that its processes have used the CPU."""
        return proc.cpu_time([self.process.pid, *proc.descendants(self.process.pid)])

    def pause(self) -> None:
        """Stop all its processes (SIGSTOP), so that another can be measured."""
        for each in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):  # the launcher has processes that try something and end
                each.suspend()

    def resume(self) -> None:
        """Let all its processes continue."""
        for each in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def must_be_alive(self) -> None:
        """Raise MeasurementError if it has ended."""
        if not self.is_alive():
            raise MeasurementError("it ended while it was measured")

    def end(self) -> None:
        """Send SIGTERM, and SIGKILL to what is left after END_DEADLINE seconds."""
        tree = self.tree() if self.is_alive() else []
        if tree:
            self.resume()
            self.process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(tree, timeout=END_DEADLINE)
        for each in left:
            each.kill()
        self.process.wait()


@contextlib.contextmanager
def started(subject: Subject, plan: Plan, profile: str, pair: Pair | None, workers: int = 1) -> Iterator[Running]:
    """Start a subject, compare its bodies with the oracle's, pause it; end it afterwards.

    Raises MeasurementError if it does not start, or a body is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Place(
            profile=profile,
            folder=Path(folder),
            port=free_ports(1)[0],
            certificate=pair.certificate if pair else None,
            key=pair.key if pair else None,
            targets=(*oracle.MIX, *oracle.CHECKS),
            workers=workers,
        )
        running = Running(subject, place, plan.server_cpus)
        try:
            _check(running, pair)
            running.pause()
            yield running
        finally:
            running.end()


def _check(running: Running, pair: Pair | None) -> None:
    place = running.place
    context = ssl.create_default_context()
    if pair:
        pair.authority.configure_trust(context)
    h2c, compressed = place.profile == "json-h2c", place.profile == "json-comp"
    headers = {"accept-encoding": OFFER if compressed else ""}
    with httpx.Client(
        base_url=running.url, verify=context, trust_env=False, http1=not h2c, http2=h2c, headers=headers
    ) as client:
        _await_response(client, running)
        for count, multiplier in place.targets:
            response = client.get(f"/json/{count}?m={multiplier}")
            if response.content != oracle.body(count, multiplier):
                raise MeasurementError(f"a wrong body for count={count} m={multiplier}")
            if count >= 25 and ("content-encoding" in response.headers) != compressed:
                raise MeasurementError("a body is compressed unasked, or not when asked")
        if place.profile in ARENA:
            added = client.post("/baseline11?a=13&b=42", content=b"20").text
            echoed = client.post("/echo", content=b"x" * 10_000).content
            if added != "75" or echoed != b"x" * 10_000:
                raise MeasurementError(f"a wrong sum or echo: {added[:20]!r}, {len(echoed)} bytes")


def _await_response(client: httpx.Client, running: Running) -> None:
    end = time.monotonic() + START_DEADLINE
    while True:
        try:
            client.get("/json/1?m=3")
        except httpx.TransportError as error:
            if not running.is_alive() or time.monotonic() > end:
                log = running.log.read_text(errors="replace").strip()[-300:]
                raise MeasurementError(f"no response: {error}; its log ends {log!r}") from error
            time.sleep(0.05)
        else:
            return

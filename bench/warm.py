"""Bursts of h2load that are warm before they count: connections are open, handshakes done, and code paths were taken.

h2load was compared with wrk for this. The two cost about the same CPU time a request against this service and nginx.
wrk counts from its first connection on, and adds latencies that it did not measure ("coordinated omission"). h2load leaves
out a warm-up, and logs the latency of every response; the log costs it a twentieth of its time.
"""

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.generators import Burst, MeasurementError
from bench.processes import Running, Sample, observed
from bench.stats import percentile

AROUND = 0.15
"""Seconds that a burst takes besides its warm-up and what counts."""


@dataclass(frozen=True)
class Load:
    """What a burst sends: as fast as responses come, or at `rate` requests a second of all connections together."""

    connections: int
    seconds: float = 1.0
    warm: float = 0.4
    """Seconds before that do not count."""
    rate: float | None = None
    options: tuple[str, ...] = ()
    """More of h2load's, such as a field or a body."""

    @property
    def cost(self) -> float:
        """Seconds that a burst takes."""
        return self.warm + self.seconds + AROUND

    def command(self, urls: Sequence[str]) -> list[str]:
        """Write h2load's command."""
        command = ["h2load", "--h1", "-c", str(self.connections), "-D", _time(self.seconds)]
        command += [f"--warm-up-time={_time(self.warm)}"]
        command += [f"--rps={self.rate / self.connections:g}"] if self.rate else []
        return [*command, *self.options, *urls]


def warm_up(connections: int, *, tls: bool) -> float:
    """Give the seconds that so many connections and their first requests may take, of a slow subject, too."""
    return 0.4 + connections * (0.0016 if tls else 0.0005)


def _time(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def burst(run: Running, load: Load, paths: Sequence[str], body: float, cpus: set[int]) -> Burst:
    """Load a subject with those paths in turn, whose bodies have `body` bytes on average.

    Raises MeasurementError for a response that is not 200, and for a rate that was not kept.
    """
    log = run.place.folder / "responses"
    log.unlink(missing_ok=True)
    command = load.command([run.url + path for path in paths])
    command.insert(1, f"--log-file={log}")
    output, samples = observed(run, command, cpus, load.cost + 30)
    return parse(output, read_log(log), load, body, samples)


@dataclass(frozen=True)
class Responses:
    """What a log has of each response: when it ended (seconds since the epoch, sorted), its milliseconds, all statuses."""

    ends: list[float]
    latencies: list[float]
    statuses: set[str]


def read_log(path: Path) -> Responses:
    """Read the file that h2load's `--log-file` named; empty if h2load made none."""
    lines = [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []
    ends = sorted((int(begin) + int(taken)) / 1e6 for begin, _, taken in lines)
    return Responses(ends, [int(taken) / 1e3 for _, _, taken in lines], {status for _, status, _ in lines})


def parse(output: str, responses: Responses, load: Load, body: float, samples: Sequence[Sample]) -> Burst:
    """Read h2load's output and log; see `burst`."""
    counts = re.search(r"^requests: .*$", output, re.MULTILINE)
    traffic = re.search(r"^traffic: \S+ \((\d+)\) total", output, re.MULTILINE)
    number = len(responses.ends)
    if not (counts and traffic) or number < 2:
        raise MeasurementError(f"h2load gives no figures: {output.strip()[-300:]!r}")
    received = int(traffic[1]) / number
    # 0 is none: h2load reads no status if no reason phrase follows it (RFC 9112, section 4, has it optional; hypercorn
    # sends none), and now and then none of uvicorn's. Then the bytes have to be right: those of a body, and of a head. With
    # a few requests a connection not all paths are asked for as often, which moved the average by a tenth.
    unread = responses.statuses <= {"0", "200"} and body * 0.8 <= received <= body * 1.2 + 1000
    if not (responses.statuses == {"200"} or unread) or " 0 errored, 0 timeout" not in output:
        raise MeasurementError(f"{counts[0]}; statuses {sorted(responses.statuses)}, {received} bytes a response")
    if load.rate and number < load.rate * load.seconds * 0.9:
        raise MeasurementError(f"{number / load.seconds:.0f} requests a second of {load.rate:.0f}: it is saturated")
    return Burst(
        rps=number / load.seconds,
        p50=percentile(responses.latencies, 50),
        p99=percentile(responses.latencies, 99),
        transfer=received * number / load.seconds,
        cpu=cpu_a_response(responses.ends, samples),
    )


def cpu_a_response(ends: Sequence[float], samples: Sequence[Sample]) -> float | None:
    """Divide the CPU time between two samples by the responses between them, in microseconds; None with too few of either.

    The two are the first and the last within what counts.
    """
    within = [each for each in samples if ends[0] <= each.time <= ends[-1]]
    for first, last in pairwise([within[0], within[-1]] if len(within) > 1 else []):
        if responses := bisect.bisect_right(ends, last.time) - bisect.bisect_right(ends, first.time):
            return (last.cpu - first.cpu) / responses * 1e6
    return None

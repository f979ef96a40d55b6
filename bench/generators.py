"""wrk and h2load: their commands, and what their output says. Standard library alone: the compose image has no more."""

import re
from dataclasses import dataclass

SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
WRK_ERRORS = r"Socket errors: connect \d+, read \d+, write \d+, timeout \d+|Non-2xx or 3xx responses: \d+"


class MeasurementError(Exception):
    """A measurement that does not count, and why."""


@dataclass(frozen=True)
class Burst:
    """What wrk measured: requests and bytes a second, latencies in milliseconds."""

    rps: float
    p50: float
    p99: float
    transfer: float


@dataclass(frozen=True)
class Storm:
    """What h2load measured: seconds until the last of so many answers."""

    seconds: float
    answers: int


def wrk(url: str, connections: int, seconds: int, threads: int = 1) -> list[str]:
    """Write the command that sends the arena's mix."""
    return ["wrk", "--latency", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "-s", "bench/mix.lua", url]


def parse_wrk(output: str) -> Burst:
    """Read wrk's output; any error that it reports, or a figure that is not there, is a MeasurementError."""
    if errors := re.search(WRK_ERRORS, output):
        raise MeasurementError(errors[0])
    rate = re.search(r"^Requests/sec:\s+([\d.]+)$", output, re.MULTILINE)
    median = re.search(r"^\s+50%\s+([\d.]+)(us|ms|s|m)$", output, re.MULTILINE)
    tail = re.search(r"^\s+99%\s+([\d.]+)(us|ms|s|m)$", output, re.MULTILINE)
    transfer = re.search(r"^Transfer/sec:\s+([\d.]+)(B|KB|MB|GB)$", output, re.MULTILINE)
    if not (rate and median and tail and transfer) or float(rate[1]) == 0:
        raise MeasurementError(f"wrk gives no figures: {output.strip()[-300:]!r}")
    return Burst(
        rps=float(rate[1]),
        p50=float(median[1]) * SECONDS[median[2]] * 1e3,
        p99=float(tail[1]) * SECONDS[tail[2]] * 1e3,
        transfer=float(transfer[1]) * BYTES[transfer[2]],
    )


def h2load(url: str, connections: int, requests: int) -> list[str]:
    """Write the command that opens all connections at once and shares the requests among them, over HTTP/1.1."""
    return ["h2load", "--h1", "-n", str(requests), "-c", str(connections), url]


def parse_h2load(output: str, requests: int) -> Storm:
    """Read h2load's output; an answer that is missing or not 2xx is a MeasurementError."""
    finished = re.search(r"^finished in ([\d.]+)(us|ms|s|m),", output, re.MULTILINE)
    counts = re.search(r"^requests: .*$", output, re.MULTILINE)
    if not finished or not counts:
        raise MeasurementError(f"h2load gives no figures: {output.strip()[-300:]!r}")
    if f"status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx" not in output:
        raise MeasurementError(counts[0])
    return Storm(float(finished[1]) * SECONDS[finished[2]], requests)

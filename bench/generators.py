"""wrk and h2load: their commands, and how to read their output. Standard library alone: the compose image has no more."""

import re
from dataclasses import dataclass

SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
WRK_ERRORS = r"Socket errors: connect \d+, read \d+, write \d+, timeout \d+|Non-2xx or 3xx responses: \d+"


class MeasurementError(Exception):
    """Why a measurement does not count."""


@dataclass(frozen=True)
class Burst:
    """Requests and bytes a second, latencies in milliseconds, and microseconds of the subject's CPU time a request."""

    rps: float
    p50: float
    p99: float
    transfer: float
    cpu: float | None = None

    @property
    def bytes_a_response(self) -> float:
        """Bytes of a response, its headers among them."""
        return self.transfer / self.rps


@dataclass(frozen=True)
class Streams:
    """What h2load measured over HTTP/2: requests and bytes a second, latencies in milliseconds. It gives no percentiles."""

    rps: float
    mean: float
    longest: float
    transfer: float

    @property
    def bytes_a_response(self) -> float:
        """Bytes of a response, its headers among them."""
        return self.transfer / self.rps


@dataclass(frozen=True)
class HandshakeBurst:
    """What h2load measured: seconds from the first connection to the last of so many responses."""

    seconds: float
    responses: int


def wrk(  # noqa: PLR0913 - each is an option of wrk's
    url: str, connections: int, seconds: int, threads: int = 1, *, offer: str = "", counts: str = ""
) -> list[str]:
    """Write the command that sends the arena's mix, or those `counts` of it, with `offer` as Accept-Encoding."""
    command = ["wrk", "--latency", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "-s", "bench/mix.lua"]
    # A late response shows in p99. wrk reports it as an error after 2 s, and thousands of handshakes take longer.
    command += ["--timeout", f"{seconds - 2}s"] if seconds > 4 else []
    command += ["-H", f"Accept-Encoding: {offer}"] if offer else []
    return [*command, url, "--", *counts.split()]


def parse_wrk(output: str) -> Burst:
    """Read wrk's output; raises MeasurementError for an error that wrk reports, or a figure that is missing."""
    if errors := re.search(WRK_ERRORS, output):
        raise MeasurementError(errors[0])
    rate = re.search(r"^Requests/sec:\s+([\d.]+)$", output, re.MULTILINE)
    median = re.search(r"^\s+50%\s+([\d.]+)(us|ms|s|m) *$", output, re.MULTILINE)
    tail = re.search(r"^\s+99%\s+([\d.]+)(us|ms|s|m) *$", output, re.MULTILINE)
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
    """Write the command that opens all connections at once and divides the requests among them, over HTTP/1.1."""
    return ["h2load", "--h1", "-n", str(requests), "-c", str(connections), url]


def h2load_streams(urls: list[str], connections: int, streams: int, seconds: int, warm: int) -> list[str]:
    """Write the command that requests those URLs in turn over HTTP/2, `streams` at a time on each connection.

    What happens in the first `warm` seconds does not count.
    """
    command = ["h2load", "-c", str(connections), "-m", str(streams), "-D", str(seconds), f"--warm-up-time={warm}"]
    return [*command, *urls]


def parse_h2load(output: str, requests: int, body: int) -> HandshakeBurst:
    """Read h2load's output; raises MeasurementError for a response that is missing, or not 2xx.

    h2load reads no status if no reason phrase follows it (RFC 9112, section 4, has it optional; hypercorn sends none). Then
    the responses are right if as many bytes came as `requests` bodies have.
    """
    finished = re.search(r"^finished in ([\d.]+)(us|ms|s|m),", output, re.MULTILINE)
    counts = re.search(r"^requests: .*$", output, re.MULTILINE)
    if not finished or not counts:
        raise MeasurementError(f"h2load gives no figures: {output.strip()[-300:]!r}")
    right = f"status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx" in output
    unread = (
        "status codes: 0 2xx, 0 3xx, 0 4xx, 0 5xx" in output
        and f" {requests} done, " in counts[0]
        and f"({requests * body}) data" in output
    )
    if not (right or unread):
        raise MeasurementError(counts[0])
    return HandshakeBurst(float(finished[1]) * SECONDS[finished[2]], requests)


def parse_h2load_streams(output: str) -> Streams:
    """Read the output of a run by time; raises MeasurementError for a response that is not 2xx, or a missing figure."""
    rate = re.search(r"^finished in [\d.]+(?:us|ms|s|m), ([\d.]+) req/s, ([\d.]+)(B|KB|MB|GB)/s", output, re.MULTILINE)
    counts = re.search(r"^requests: .* (\d+) done, .*$", output, re.MULTILINE)
    times = re.search(r"^time for request: +\S+ +([\d.]+)(us|ms|s|m) +([\d.]+)(us|ms|s|m)", output, re.MULTILINE)
    if not (rate and counts and times) or float(rate[1]) == 0:
        raise MeasurementError(f"h2load gives no figures: {output.strip()[-300:]!r}")
    # The time ends with streams under way, of which some have their status already.
    if (
        "2xx, 0 3xx, 0 4xx, 0 5xx" not in output
        or f" {counts[1]} succeeded, 0 failed, 0 errored, 0 timeout" not in output
    ):
        raise MeasurementError(counts[0])
    return Streams(
        rps=float(rate[1]),
        mean=float(times[3]) * SECONDS[times[4]] * 1e3,
        longest=float(times[1]) * SECONDS[times[2]] * 1e3,
        transfer=float(rate[2]) * BYTES[rate[3]],
    )

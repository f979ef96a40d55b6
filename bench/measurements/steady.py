"""Latency at a steady rate, well below saturation."""

import re
import statistics

import msgspec

from bench import oracle
from bench.generators import MeasurementError
from bench.measurements.base import Measurement, Step, Table
from bench.plan import Plan
from bench.processes import Running, loaded
from bench.stats import Ratio, percentile, shown
from bench.turns import against_first, subjects_in_turn

RATE, CLIENTS, SECONDS = 2000, 32, 4
COUNT, MULTIPLIER = 25, 4
COMMAND = ["h2load", "--h1", "-c", str(CLIENTS), f"--rps={RATE / CLIENTS:g}", "-D", str(SECONDS)]


class Latency(msgspec.Struct):
    """Milliseconds: medians of the rounds, and the ratio of p99 to this service's."""

    p50: float
    p99: float
    ratio: Ratio | None


class Steady(Measurement, tag="steady"):
    """Latencies at `rate` requests a second over TLS."""

    rate: int
    subjects: dict[str, Latency]

    def table(self) -> Table:
        """Return a row for each subject."""
        rows = [[name, f"{each.p50:.2f}", f"{each.p99:.2f}", shown(each.ratio)] for name, each in self.subjects.items()]
        head = ["subject", "p50 ms", "p99 ms", "ratio of p99"]
        return Table(f"Latency at {self.rate} requests a second over TLS, count 25", head, rows)


def latencies(output: str, log: str, body: int) -> list[float]:
    """Read h2load's output and its log as milliseconds of each request, responses with `body` bytes.

    Raises MeasurementError if a response was not 200, or fewer than nine tenths of the requests were made.
    """
    lines = [line.split("\t") for line in log.splitlines()]
    statuses = {status for _, status, _ in lines}
    # 0 is none: h2load has read no status (see parse_h2load), so that the bytes have to be right. The time ends with
    # a request under way on each connection at most.
    data = re.search(r"\((\d+)\) data", output)
    whole = data is not None and len(lines) * body <= int(data[1]) < (len(lines) + CLIENTS) * body
    if not (statuses == {"200"} or (statuses == {"0"} and whole)) or " 0 errored, 0 timeout" not in output:
        raise MeasurementError(f"h2load: {[line for line in output.splitlines() if line.startswith('requests')]}")
    if len(lines) < RATE * SECONDS * 0.9:
        raise MeasurementError(f"{len(lines) / SECONDS:.0f} requests a second instead of {RATE}: it is saturated")
    return [float(microseconds) / 1e3 for _, _, microseconds in lines]


def measure(plan: Plan) -> list[Measurement]:
    """Send RATE requests a second over TLS from CLIENTS connections."""
    plan = plan.of("json-tls")

    def one(run: Running) -> list[float]:
        log = run.place.folder / "latencies"
        log.unlink(missing_ok=True)
        command = [*COMMAND, f"--log-file={log}", f"{run.url}/json/{COUNT}?m={MULTIPLIER}"]
        output = loaded(command, plan.load_cpus, SECONDS + 30)
        return latencies(output, log.read_text(), len(oracle.body(COUNT, MULTIPLIER)))

    what = f"steady {RATE} requests a second"
    series, errors = subjects_in_turn(plan, "json-tls", plan.pairs["RSA-2048"], what, one)
    compared = against_first(plan, {name: [percentile(each, 99) for each in runs] for name, runs in series.items()})
    subjects = {
        name: Latency(
            p50=statistics.median(percentile(each, 50) for each in runs),
            p99=statistics.median(percentile(each, 99) for each in runs),
            ratio=compared[name],
        )
        for name, runs in series.items()
    }
    return [Steady(command=" ".join([*COMMAND, "URL"]), errors=errors, rate=RATE, subjects=subjects)]


RESULTS = (Steady,)
STEPS = (Step("steady", measure),)

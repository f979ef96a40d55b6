"""Tables of what was measured; no number in them is typed by hand."""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(ratio: dict[str, float] | None) -> str:
    """Write a ratio with the span of its middle half."""
    return "-" if ratio is None else f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def section(measurement: dict[str, Any]) -> str:
    """Write a measurement as a heading and a table; what failed is in it as an error, never as a number."""
    kind = measurement["measurement"]
    failed = [[name, f"error: {error}"] for name, error in measurement.get("errors", {}).items()]
    if kind == "throughput":
        title = f"{measurement['profile']}, {measurement['connections']} connections"
        head = ["subject", "rps", "ratio of rps", "p50 ms", "p99 ms"]
        rows = [
            [name, f"{each['rps']:.0f}", spread(each["ratio"]), f"{each['p50']:.2f}", f"{each['p99']:.2f}"]
            for name, each in measurement["subjects"].items()
        ]
    elif kind == "storm":
        title = f"{measurement['connections']} TLS connections at once, {measurement['key']}"
        head = ["subject", "seconds to the last answer", "ratio of seconds"]
        rows = [
            [name, f"{each['seconds']:.3f}", spread(each["ratio"])] for name, each in measurement["subjects"].items()
        ]
    elif kind == "steady":
        title = f"Latency at {measurement['rate']} requests a second over TLS, count 25"
        head = ["subject", "p50 ms", "p99 ms", "ratio of p99"]
        rows = [
            [name, f"{each['p50']:.2f}", f"{each['p99']:.2f}", spread(each["ratio"])]
            for name, each in measurement["subjects"].items()
        ]
    elif kind == "growth":
        title = f"This service by {measurement['by']}"
        head = [measurement["by"], measurement["unit"]]
        rows = [[name, f"{value:.1f}"] for name, value in measurement["values"].items()]
    elif kind == "tax":
        title = f"What TLS takes of the rate, {measurement['connections']} connections"
        head = ["subject", "share"]
        rows = [[name, f"{share:.0%}"] for name, share in measurement["subjects"].items()]
    else:
        title = "A request in process"
        head = ["", "us"]
        rows = [["encode alone", f"{measurement['encode']:.2f}"], ["request", f"{measurement['request']:.2f}"]]
        rows.append(["ratio", f"{measurement['ratio']:.2f} ({measurement['low']:.2f} to {measurement['high']:.2f})"])
    command = f"\n\n`{measurement['command']}`" if "command" in measurement else ""
    rows += [[*each, *[""] * (len(head) - 2)] for each in failed]
    return f"### {title}{command}\n\n{table(head, rows)}\n"


def text(measurements: list[dict[str, Any]]) -> str:
    """Write all measurements."""
    return "\n".join(section(each) for each in measurements)


def write(results: Path) -> int:
    """Write bench/REPORT.md, and the README's table between its markers, from the newest result."""
    newest = max(results.glob("*.json"), default=None)
    if newest is None:
        print(f"{results}: no results; run `python -m bench` first", file=sys.stderr)
        return 2
    result = json.loads(newest.read_text())
    environment = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    programs = "; ".join(environment["programs"].values())
    (ROOT / "bench" / "REPORT.md").write_text(
        f"""# What was measured

Made by `python -m bench report` from `{newest.relative_to(ROOT)}`, which has every burst.

- {environment["date"]}; {environment["cpu"]}, {environment["cpus"]} CPUs; Linux {environment["kernel"]};
  load {environment["load"][0]:.2f} at the start
- Python {environment["python"]}
- {versions}
- {programs}

## Method

One worker a subject, confined to one CPU, the load generator to the others. Subjects are fresh processes; before one counts,
its bodies are compared with the oracle's. Bursts go in turn, A B C then C B A, all subjects but one stopped (SIGSTOP);
ratios are taken burst by burst against this service, the median given with the span of the middle half. Rates of different
runs are not to be compared. An answer that is not 200, a socket error or a subject that died makes a measurement an error.

## Subjects

{table(["subject", "what it is"], [[name, what] for name, what in result["subjects"].items()])}

## Measurements

{text(result["measurements"])}"""
    )
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    shown = [
        each for each in result["measurements"] if each["measurement"] == "throughput" and each["connections"] == 256
    ]
    readme.write_text(f"{before}{BEGIN}\n{environment['date']}, {environment['cpu']}:\n\n{text(shown)}{END}{after}")
    return 0

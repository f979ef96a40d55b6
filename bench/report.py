"""Tables of what was measured; no number in them is typed by hand."""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SERVICE = "granian-json"
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
    elif kind == "compressed":
        title = f"{measurement['of']}, {measurement['connections']} connections: the arena's score"
        head = ["subject", "rps", "octets an answer", "ratio of rps / octets^2"]
        rows = [
            [name, f"{each['rps']:.0f}", f"{each['octets']:.0f}", spread(each["ratio"])]
            for name, each in measurement["subjects"].items()
        ]
    elif kind == "multiplexed":
        title = f"json-h2c, {measurement['connections']} connections of 32 streams"
        head = ["subject", "rps", "ratio of rps", "mean ms", "longest ms"]
        rows = [
            [name, f"{each['rps']:.0f}", spread(each["ratio"]), f"{each['mean']:.2f}", f"{each['longest']:.2f}"]
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


def find(measurements: list[dict[str, Any]], **wanted: object) -> dict[str, Any] | None:
    """Find the measurement that has those values."""
    matching = (each for each in measurements if all(each.get(name) == value for name, value in wanted.items()))
    return next(matching, None)


def aims(measurements: list[dict[str, Any]]) -> str:
    """Put what was aimed at beside what was reached; what was not measured is left out."""
    rows: list[list[str]] = []
    encrypted = find(measurements, measurement="throughput", profile="json-tls", connections=256)
    for name, aim in (("uvicorn", "3"), ("fastpysgi", "2"), ("nginx-files", "0.8"), ("granian-ceiling", "0.8")):
        if encrypted and name in encrypted["subjects"] and (ratio := encrypted["subjects"][name]["ratio"]):
            rows.append([f"json-tls, 256 connections, rps over {name}'s", aim, f"{1 / ratio['median']:.2f}"])
    if (taken := find(measurements, measurement="tax", connections=256)) and SERVICE in taken["subjects"]:
        rows.append(["what TLS takes of the rate", "25% at most", f"{taken['subjects'][SERVICE]:.0%}"])
    storm = find(measurements, measurement="storm", connections=4096, key="RSA-2048")
    if storm and "uvicorn" in storm["subjects"] and (ratio := storm["subjects"]["uvicorn"]["ratio"]):
        rows.append(["4,096 handshakes at once, time over uvicorn's", "0.6 at most", f"{1 / ratio['median']:.2f}"])
    packed = find(measurements, measurement="compressed", of="json-comp")
    if packed and "uvicorn-zlib" in packed["subjects"] and (ratio := packed["subjects"]["uvicorn-zlib"]["ratio"]):
        rows.append(["json-comp, score over uvicorn's with zlib", "2", f"{1 / ratio['median']:.2f}"])
    if grown := find(measurements, measurement="growth", by="workers, both listeners idle"):
        each = (grown["values"]["8"] - grown["values"]["4"]) / 8  # four more workers for each of two listeners
        rows.append(["an idle worker's own memory", "8 MiB at most", f"{each:.1f} MiB"])
    return table(["", "aim", "reached"], rows)


def draw(measurements: list[dict[str, Any]], folder: Path) -> str:
    """Draw the rates against this service's by connections, and this service's by count; return the Markdown."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and only this needs it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "the same drawing for the same result"
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = []
    for profile in ("json-tls", "json"):
        points: dict[str, list[tuple[int, float]]] = {}
        for each in measurements:
            if each["measurement"] == "throughput" and each["profile"] == profile:
                for name, subject in each["subjects"].items():
                    if subject["ratio"]:
                        points.setdefault(name, []).append((each["connections"], subject["ratio"]["median"]))
        figure, axes = plt.subplots(figsize=(8, 4.5))
        for name, line in points.items():
            axes.plot(*zip(*sorted(line), strict=True), marker="o", label=name)
        axes.set(xscale="log", xlabel="connections", ylabel=f"rate, {SERVICE} = 1", title=profile, ylim=(0, None))
        axes.legend(fontsize="small")
        figure.savefig(folder / f"{profile}.svg", metadata={"Date": None})
        shown.append(f"![{profile}: rates by connections](results/{profile}.svg)")
    if grown := find(measurements, measurement="growth", by="count"):
        figure, axes = plt.subplots(figsize=(8, 3.5))
        axes.plot([int(count) for count in grown["values"]], list(grown["values"].values()), marker="o")
        axes.set(xlabel="count", ylabel="requests a second", title=f"{SERVICE} over TLS, by count", ylim=(0, None))
        figure.savefig(folder / "count.svg", metadata={"Date": None})
        shown.append("![rate by count](results/count.svg)")
    return "\n\n".join(shown)


def write(results: Path) -> int:
    """Write bench/REPORT.md, and the README's table between its markers, from the newest full result, or short one."""
    newest = max(results.glob("*-full.json"), default=None) or max(results.glob("*.json"), default=None)
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

## Aimed at, and reached

{aims(result["measurements"])}

{draw(result["measurements"], newest.parent)}

## Measurements

{text(result["measurements"])}
{(ROOT / "bench" / "tried.md").read_text()}"""
    )
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    every: dict[str, dict[str, object]] = {
        "throughput": {"connections": 256},
        "compressed": {"of": "json-comp"},
        "multiplexed": {"connections": 64},
    }
    shown = [
        each
        for each in result["measurements"]
        if (wanted := every.get(each["measurement"])) and wanted.items() <= each.items()
    ]
    readme.write_text(f"{before}{BEGIN}\n{environment['date']}, {environment['cpu']}:\n\n{text(shown)}{END}{after}")
    return 0

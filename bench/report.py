"""bench/REPORT.md and the README's section on the benchmark; no number in them is typed by hand."""

import sys
from pathlib import Path

from bench import ROOT, results
from bench.charts import draw
from bench.noise import SWING
from bench.reading import choice, headlines, losses, readme_section, trust
from bench.tables import aims, bullets, paragraph, table, text

METHOD = """Each subject has one worker, confined to one CPU; the load generator has the others. Subjects are fresh processes, whose
bodies are compared with the oracle's before they are measured. Bursts go in turn, A B C then C B A, and all subjects
but one are stopped meanwhile (SIGSTOP).

A burst is warm before it counts: its connections are open, handshakes done, and it has sent requests for some tenths of
a second (seconds with thousands of connections), which count for nothing. Handshakes are measured in measurements of
their own. The generator is h2load, which leaves out a warm-up and logs the latency of each response; wrk costs about as
much CPU time, but counts from its first connection on, and adds latencies that it did not measure. wrk sends what
h2load cannot (baseline, limited-conn), after a second that does not count; its connections open while it counts.

The mix is the arena's: bodies of 1 to 50 items, each with a multiplier of its own (bench/oracle.py, which also computes
what their bodies have to be). "The arena" is HttpArena, whose profiles docs/arena.md explains.

Ratios are taken burst by burst against the first subject of a table, which is this service in all but one; the list at
the top and the aims have them the other way round, this service over another. A ratio is the median of the rounds'
ratios, which is not the ratio of the medians. In brackets: {interval}.
Do not compare the rates of different runs; `python -m bench compare A.json B.json` compares ratios.
CPU time is that of all of a subject's processes and threads, over the responses of the same time. A response that is
not 200, a socket error or a subject that ended makes a measurement an error.

What the hypervisor stole and what other processes used is watched during each burst; between bursts a piece of work
that is always the same is timed (bench/noise.py). A round is disturbed if others used too much, or if that work once
took more than {swing} times as long as at its fastest. It is taken again, but at most one for every three that count."""
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def write(folder: Path) -> int:
    """Write both from the newest full result in `folder`, or short one; return the exit status."""
    newest = max(folder.glob("*-full.json"), default=None) or max(folder.glob("*.json"), default=None)
    if newest is None:
        print(f"{folder}: no results; run `python -m bench` first", file=sys.stderr)
        return 2
    result = results.read(newest)
    drawings = draw(result.measurements, newest.parent)
    (ROOT / "bench" / "REPORT.md").write_text(report(result, str(newest.relative_to(ROOT)), drawings))
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{readme_section(result)}{END}{after}")
    return 0


def _noise(result: results.Result) -> str:
    retaken = sum(each.retaken for each in result.measurements)
    disturbed = [each.table().title for each in result.measurements if each.disturbed]
    if disturbed:
        return f"**Rounds that count were disturbed** in these measurements:\n\n{bullets(disturbed)}"
    return f"{retaken} rounds were disturbed and taken again; none that counts was."


def _measured_with(environment: results.Environment) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    pinned = (
        f"not those of requirements-dev.txt: {', '.join(environment.unpinned)}"
        if environment.unpinned
        else "those pinned in requirements-dev.txt"
    )
    machine = f"{environment.cpu}, {environment.cpus} CPUs; Linux {environment.kernel}"
    return [
        f"{environment.date}; {machine}; load {environment.load[0]:.2f} at the start",
        f"Python {environment.python}",
        f"{versions}; {pinned}",
        "; ".join(environment.programs.values()),
    ]


def report(result: results.Result, source: str, drawings: str) -> str:
    """Write bench/REPORT.md; `source` is the file that holds the result."""
    return f"""# What was measured

Made by `python -m bench report` from `{source}`, which has every burst that counts.

## Which server to choose

{bullets(headlines(result))}

{paragraph([trust(result)])}

{choice(result)}

{losses(result)}

{drawings}

## Method

{METHOD.format(interval=result.interval, swing=SWING)}

{_noise(result)}

Measured with

{bullets(_measured_with(result.environment))}

## Subjects

{table(["subject", "what it is"], list(result.subjects.items()))}

## Aimed at, and reached

{aims(result.measurements)}

## Measurements

{text(result.measurements)}
{(ROOT / "bench" / "tried.md").read_text()}"""

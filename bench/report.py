"""bench/REPORT.md and the README's section on the benchmark; no number in them is typed by hand."""

import sys
from pathlib import Path

from bench import results
from bench.charts import draw
from bench.reading import readme_section
from bench.subjects import ROOT
from bench.tables import aims, table, text

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


def report(result: results.Result, source: str, drawings: str) -> str:
    """Write bench/REPORT.md; `source` is the file that holds the result."""
    environment = result.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    programs = "; ".join(environment.programs.values())
    return f"""# What was measured

Made by `python -m bench report` from `{source}`, which has every burst.

- {environment.date}; {environment.cpu}, {environment.cpus} CPUs; Linux {environment.kernel};
  load {environment.load[0]:.2f} at the start
- Python {environment.python}
- {versions}
- {programs}

## Method

Each subject has one worker, confined to one CPU; the load generator has the others. Subjects are fresh processes, whose
bodies are compared with the oracle's before they are measured. Bursts go in turn, A B C then C B A, and all subjects
but one are stopped meanwhile (SIGSTOP). Ratios are taken burst by burst against the first subject of a table, which is
this service in all but one: the tables have their median and the span of their middle half. Do not compare the rates of
different runs. A response that is not 200, a socket error or a subject that ended makes a measurement an error.

## Subjects

{table(["subject", "what it is"], list(result.subjects.items()))}

## Aimed at, and reached

{aims(result.measurements)}

{drawings}

## Measurements

{text(result.measurements)}
{(ROOT / "bench" / "tried.md").read_text()}"""

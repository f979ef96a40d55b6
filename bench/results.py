"""The result of a run, as it is kept in bench/results/: the machine, the subjects, the measurements."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from bench import ROOT
from bench.measurements import TYPES
from bench.measurements.base import Measurement

PACKAGES = (
    "granian",
    "msgspec",
    "isal",
    "uvloop",
    "uvicorn",
    "httptools",
    "hypercorn",
    "fastpysgi",
    "starlette",
    "zlib-ng",
    "brotli",
)
PROGRAMS = {
    "wrk": ["wrk", "-v"],
    "h2load": ["h2load", "--version"],
    "node": ["node", "--version"],
    "nginx": ["nginx", "-v"],
    "openssl": ["openssl", "version"],
}


class Environment(msgspec.Struct, omit_defaults=True):
    """The machine and the versions that a result depends on."""

    date: str
    cpu: str
    cpus: int
    kernel: str
    load: tuple[float, float, float]
    python: str
    packages: dict[str, str]
    programs: dict[str, str]
    unpinned: Sequence[str] = ()
    """Packages whose versions are not those of requirements-dev.txt."""


MIDDLE_HALF = "the span of the middle half of the rounds' ratios"
BOOTSTRAP = "the 95 % bootstrap interval of the median"


class Result(msgspec.Struct, omit_defaults=True):
    """`subjects` has what each subject is, by name; `interval` says what is behind a ratio in brackets."""

    environment: Environment
    subjects: dict[str, str]
    measurements: Sequence[Measurement]
    interval: str = MIDDLE_HALF

    def with_again(self, measured: Sequence[Measurement], date: str) -> "Result":
        """Put what was measured again in the place of what its step had measured, where it is the less disturbed."""
        measurements = list(self.measurements)
        for step in {each.step for each in measured}:
            new, old = ([each for each in of if each.step == step] for of in (measured, measurements))
            if sum(each.disturbed for each in new) < sum(each.disturbed for each in old):
                place = measurements.index(old[0])
                measurements = [each for each in measurements if each.step != step]
                measurements[place:place] = [msgspec.structs.replace(each, again=date) for each in new]
        return msgspec.structs.replace(self, measurements=measurements)


class _Kept(msgspec.Struct):
    environment: Environment
    subjects: dict[str, str]
    measurements: list[msgspec.Raw]
    interval: str = MIDDLE_HALF


def environment() -> Environment:
    """Describe this machine, now."""
    pins = "\n" + (ROOT / "requirements-dev.txt").read_text() + (ROOT / "requirements.txt").read_text()
    processor = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return Environment(
        date=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        cpu=processor[0] if processor else "unknown",
        cpus=len(os.sched_getaffinity(0)),
        kernel=os.uname().release,
        load=os.getloadavg(),
        python=sys.version,
        packages={name: version(name) for name in PACKAGES},
        programs={name: _first_line(command) for name, command in PROGRAMS.items()},
        unpinned=[name for name in PACKAGES if f"\n{name}=={version(name)} " not in pins],
    )


def _first_line(command: list[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except FileNotFoundError:
        return "not installed"
    return (result.stdout + result.stderr).strip().splitlines()[0]


def write(path: Path, result: Result) -> None:
    """Write a result as JSON that people can read, too."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read(path: Path) -> Result:
    """Read a result that `write` wrote; raises msgspec.ValidationError if it has an unknown measurement or field type."""
    kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    measurement = msgspec.json.Decoder(TYPES)
    measurements = [measurement.decode(each) for each in kept.measurements]
    return Result(kept.environment, kept.subjects, measurements, kept.interval)

"""Commands that a service is started by, which change what it finds: signals, outputs, filters, a limit on processes."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.faults import control_group
from tests.support.processes import ROOT

SIGNALS_IGNORED_AND_BLOCKED = ("env", "--ignore-signal", "--block-signal")
STOP_BLOCKED = ("env", "--block-signal=TERM,INT")
"""A signal that asks to stop stays pending from before the first instruction of Python."""
WITHOUT_FILTERS = (sys.executable, str(ROOT / "tests" / "support" / "without_filters.py"))


def with_outputs(redirections: str) -> tuple[str, ...]:
    return ("sh", "-c", f'exec "$@" {redirections}', "sh")


class ProcessLimit:
    """A limit on the number of processes and threads of whatever is started by `wrapper` (pids.max of a cgroup)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wrapper = ("sh", "-c", f'echo $$ > {shlex.quote(str(folder))}/cgroup.procs && exec "$@"', "sh")

    def forbid(self) -> None:
        """Let no fork succeed from now on."""
        (self.folder / "pids.max").write_text("0")

    def lift(self) -> None:
        (self.folder / "pids.max").write_text("max")


@contextmanager
def process_limit() -> Iterator[ProcessLimit]:
    """Make a cgroup with a limit on processes; skip the test if this machine lets us make none."""
    with control_group(f"granian-json-tests-{os.getpid()}") as group:
        if group is None:
            pytest.skip("no right to make a cgroup that limits processes")
        yield ProcessLimit(group)

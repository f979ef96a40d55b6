"""Processes and sockets as the kernel shows them (proc(5)), and waiting for what they do."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import ROOT
from bench.proc import children, is_running, open_connections, open_files, send, server_processes

__all__ = [
    "ROOT",
    "children",
    "is_running",
    "open_connections",
    "open_files",
    "send",
    "server_processes",
]  # of bench, for tests


def clean_environment() -> dict[str, str]:
    """Return what a new shell would have: none of the variables that the service or TLS clients read."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def wait_until(condition: Callable[[], bool], what: str, deadline: float = 30.0) -> None:
    """Return once the condition holds; fail the test after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline} s: {what}")
        time.sleep(0.01)


def pasted(command: str, options: str = "") -> bytes:
    """Run a curl line that the launcher has printed, as a shell does; return what it writes."""
    result = subprocess.run(
        ["sh", "-c", f"{command.strip()} {options} --silent --show-error"],
        env=clean_environment(),
        capture_output=True,
        check=False,
        timeout=20,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def freeze(*pids: int) -> None:
    """Stop processes with SIGSTOP, and return when they have stopped."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for task in [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]:
        wait_until(lambda task=task: "\nState:\tT" in (task / "status").read_text(), f"the stop of {task}")  # type: ignore[misc]


def has_signal(pid: int, number: signal.Signals, *masks: str) -> bool:
    """Whether a signal is in one of the masks of /proc/pid/status: SigPnd, ShdPnd, SigBlk."""
    status = Path(f"/proc/{pid}/status").read_text()
    values = re.findall(rf"^(?:{'|'.join(masks)}):\t([0-9a-f]+)$", status, re.MULTILINE)
    return any(int(value, 16) >> (number - 1) & 1 for value in values)


def ticks(pid: int) -> int:
    """Return the processor time of a process in clock ticks (/proc/pid/stat: utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def have_been_read(*connections: socket.socket) -> bool:
    """Whether the other ends' process has read all that was sent on each (/proc/net/tcp: rx_queue)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    read = {(local[-4:], remote[-4:]) for _, local, remote, _, queues, *_ in lines if queues.endswith(":00000000")}
    ends = [(each.getpeername()[1], each.getsockname()[1]) for each in connections]
    return all((f"{theirs:04X}", f"{ours:04X}") in read for theirs, ours in ends)

"""Processes and connections as the kernel shows them (proc(5)), and waiting for what they do.

psutil's `Process.children` leaves out children whose start it takes to be before their parent's, which happens when the
machine's clock is set.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the children of a process, those started first first; none if it has ended."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # one of its threads has ended
                found += map(int, (task / "children").read_text().split())
    return sorted(found, key=_start)


def _start(pid: int) -> tuple[int, int]:
    """Return what processes are sorted by in the order of their start: the kernel's numbers begin anew at some point."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        return int(_stat(pid)[19]), pid
    return 0, pid


def _stat(pid: int) -> list[bytes]:
    """Return what /proc/PID/stat has from the state on; the name before it may be of any bytes."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def server_processes(launcher: int) -> list[int]:
    """Return the server processes of a launcher, those started first first.

    Each leads a session. The launcher's other children do not: they live for a moment, to ask for responses or to try an
    application.
    """
    found = []
    for each in children(launcher):
        with suppress(ProcessLookupError):  # it has ended
            found += [each] if os.getsid(each) == each else []
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, if it has not ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def open_files(pid: int) -> int:
    """Return how many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def is_running(pid: int) -> bool:
    """Return whether a process exists and is more than a zombie."""
    try:
        return _stat(pid)[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def cpu_time(pids: Sequence[int]) -> float:
    """Return the seconds that the threads of those processes have used the CPU; those that have ended count nothing."""
    nanoseconds = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):  # one of its threads has ended
                    nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def open_connections(*ports: int) -> int:
    """Return how many connections of a server's ports it has not closed (/proc/net/tcp: ESTABLISHED or CLOSE_WAIT)."""
    ends = tuple(f":{port:04X}" for port in ports)
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[1].endswith(ends) and line[3] in {"01", "08"} for line in lines)


def wait_until(condition: Callable[[], bool], what: str, deadline: float) -> None:
    """Return once the condition holds; raise TimeoutError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline} s: {what}")
        time.sleep(0.01)

"""Server processes that were killed, or have ended: when their sockets are closed.

The kernel counts the sockets of a process as members of their group until it has closed them, which takes a while if it
has much memory to give back. What the launcher holds is closed after that, so that its order stays the kernel's.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from app.launcher.log import ListenerLog
from app.launcher.server_process import ServerProcess
from app.launcher.sockets import ReuseportGroup

PATIENCE = 0.3  # seconds that are waited for in one place
LOOK = 0.05  # seconds between looks from then on
GONE = (FileNotFoundError, ProcessLookupError, PermissionError)  # it has ended, or is another user's, hence no worker


class Dying:
    """The server processes of a listener whose sockets are still to be closed."""

    def __init__(self, group: ReuseportGroup, reports: ListenerLog) -> None:
        self.group = group
        self.reports = reports
        self.processes: list[ServerProcess] = []

    def add(self, process: ServerProcess) -> None:
        """Take a process that has ended, or was killed; if its sockets are not closed soon, a line says so."""
        self.processes.append(process)
        end = time.monotonic() + PATIENCE
        while not (is_closed := are_closed(process)) and time.monotonic() < end:
            time.sleep(0.005)
        if not is_closed:
            self.reports.warn(
                f"server process {process.pid} is over, but its sockets are still held; nothing is renewed until they are closed"
            )

    def close_sockets(self) -> bool:
        """Close the sockets that nobody else holds any more; return whether there was any."""
        dead = [each for each in self.processes if are_closed(each)]
        for process in dead:
            self.processes.remove(process)
            self.group.remove(process.endpoint.sockets)
        return bool(dead)

    def next_event(self) -> float | None:
        """Return when to look again (time.monotonic); None for never."""
        return time.monotonic() + LOOK if self.processes else None


def are_closed(process: ServerProcess) -> bool:
    """Return whether no process of a server process's group holds its sockets any more.

    What its application has started may outlive it, and holds none of them.
    """
    if process.pid == 0:  # it was never started
        return True
    return process.ended() is not None and not (group_exists(process.pid) and _holds(process.pid, process.held))


def group_exists(group: int) -> bool:
    """Return whether a process group has a process, a zombie included. As PID 1, reap what has ended."""
    with suppress(ChildProcessError):  # they are not ours, but init's
        os.waitpid(-group, os.WNOHANG)
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # none is left, or another user's alone (sudo): no worker
        return False
    return True


def _holds(group: int, held: frozenset[str]) -> bool:
    """Return whether a process of a group has one of these descriptors open, or that cannot be known now (proc(5)).

    Each thread is asked: the first may be a zombie, which has none, while another still gives back memory.
    """
    try:
        for process in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - Path has no use for what is no file
            with suppress(*GONE):
                stat = Path("/proc", process, "stat").read_bytes().rpartition(b")")[2].split()  # of a name of any bytes
                if int(stat[2]) == group and any(each in held for each in _open_files(f"/proc/{process}/task")):
                    return True
    except OSError:  # no descriptor to look by
        return True
    return False


def _open_files(threads: str) -> Iterator[str]:
    for thread in os.listdir(threads):  # noqa: PTH208
        with suppress(*GONE):
            for descriptor in os.listdir(f"{threads}/{thread}/fd"):  # noqa: PTH208
                with suppress(*GONE):
                    yield os.readlink(f"{threads}/{thread}/fd/{descriptor}")  # noqa: PTH115

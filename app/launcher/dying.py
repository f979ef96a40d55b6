"""Server processes that were killed, or have ended: when their sockets are closed.

The kernel counts the sockets of a process as members of their group until it has closed them, which takes a while if it
held much memory. What the launcher holds is closed after that, so that its order of the members stays the kernel's.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from app.launcher.log import ListenerLog
from app.launcher.server_process import ServerProcess
from app.launcher.sockets import ReuseportGroup

PATIENCE = 0.3  # seconds that are waited for in one place
LOOK = 0.05  # seconds between looks from then on


class Dying:
    """The server processes of a listener whose sockets are still to be closed."""

    def __init__(self, group: ReuseportGroup, reports: ListenerLog) -> None:
        self.group = group
        self.reports = reports
        self.processes: list[ServerProcess] = []

    def add(self, process: ServerProcess) -> None:
        """Take a process that was killed; if it does not end soon, a line says so."""
        self.processes.append(process)
        end = time.monotonic() + PATIENCE
        while not (has_ended := has_died(process.pid)) and time.monotonic() < end:
            time.sleep(0.005)
        if not has_ended:
            self.reports.warn(
                f"server process {process.pid} was killed, and has not ended; nothing is renewed until it has"
            )

    def close_sockets(self) -> bool:
        """Close the sockets of what has ended; return whether there was any."""
        dead = [each for each in self.processes if has_died(each.pid)]
        for process in dead:
            self.processes.remove(process)
            self.group.remove(process.endpoint.sockets)
        return bool(dead)

    def next_event(self) -> float | None:
        """Return when to look again (time.monotonic); None for never."""
        return time.monotonic() + LOOK if self.processes else None


def has_died(server_process: int) -> bool:
    """Return whether a server process has ended, and its workers; 0 is one that has not been started.

    A zombie has, even if nobody reaps it, as in a container whose first process does not.
    """
    return server_process == 0 or not (group_exists(server_process) and _runs_in(server_process))


def group_exists(group: int) -> bool:
    """Return whether a process group has a process, a zombie included. As PID 1, reap what has ended."""
    with suppress(ChildProcessError):  # they are not ours, but init's
        os.waitpid(-group, os.WNOHANG)
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # none is left, or another user's alone (sudo): no worker
        return False
    return True


def _runs_in(group: int) -> bool:
    """Return whether a process group has a thread that has not ended (proc(5), /proc/PID/stat).

    The first thread of a process may be a zombie while others still end, and close its files.
    """
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it is gone
            if _status(each)[1] == str(group):
                states = [_status(thread / "stat")[0] for thread in (each.parent / "task").iterdir()]
                if set(states) - {"Z", "X"}:
                    return True
    return False


def _status(path: Path) -> tuple[str, str]:
    """Return the state of a process or thread, and its process group. Raises OSError if it is gone."""
    state, _, group, *_ = path.read_bytes().rpartition(b")")[2].decode().split()  # its name may be of any bytes
    return state, group

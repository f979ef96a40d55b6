"""Server processes that were killed, or have ended: when their sockets are closed.

The kernel counts the sockets of a process as members of their group until it has closed them, which takes a while if it
has much memory to give back. What the launcher holds is closed after that, so that its order stays the kernel's.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress

from app.launcher.child import PATIENCE, killed_holder
from app.launcher.log import ListenerLog
from app.launcher.server_process import ServerProcess
from app.launcher.sockets import ReuseportGroup

LOOKS = 0.05, 1.0  # seconds between looks from then on, at first and at last
REMINDER = 60.0  # seconds between lines about the same
GONE = (FileNotFoundError, ProcessLookupError)
SOMETHING = "something that cannot be looked for now"


class Dying:
    """The server processes of a listener whose sockets are still to be closed."""

    def __init__(self, group: ReuseportGroup, reports: ListenerLog) -> None:
        self.group = group
        self.reports = reports
        self.processes: list[ServerProcess] = []
        self._pause = LOOKS[0]
        self._next_look = self._next_line = 0.0

    def add(self, process: ServerProcess, *, wait: bool) -> None:
        """Take a process that has ended, or was killed; `wait` a moment for its sockets, and say if that was too short."""
        self.processes.append(process)
        end = time.monotonic() + (PATIENCE if wait else 0.0)
        while (holder := held_by(process, and_unreadable=True)) and time.monotonic() < end:
            time.sleep(0.005)
        if holder and wait:
            self._report(process, holder)

    def _report(self, process: ServerProcess, holder: str) -> None:
        self._next_line = time.monotonic() + REMINDER
        self.reports.warn(
            f"server process {process.pid} has ended, but its sockets are still held by {holder}; this listener is not"
            f" renewed until they are closed: if that lasts, end it, or restart"
        )

    def close_sockets(self) -> bool:
        """Close the sockets that nobody else holds any more; return whether there was any."""
        before = len(self.processes)
        for process in list(self.processes):
            if (holder := held_by(process)) is None:
                self.processes.remove(process)
                self.group.remove(process.endpoint.sockets)
            elif time.monotonic() > self._next_line > 0.0:
                self._report(process, holder)
        self._pause = min(2 * self._pause, LOOKS[1]) if self.processes else LOOKS[0]
        self._next_look = time.monotonic() + self._pause
        return len(self.processes) < before

    def next_event(self) -> float | None:
        """Return when to look again (time.monotonic); None for never."""
        return self._next_look if self.processes else None


def held_by(process: ServerProcess, *, and_unreadable: bool = False) -> str | None:
    """Return what holds the sockets of a server process that is to end; None if nothing does.

    That is a process of its group; what its application has started may outlive it, and holds none of them. One of
    another user, whose files may not be read, counts if `and_unreadable`: it may be a worker that has changed its user,
    or what an application has executed (sudo).
    """
    if (
        killed := killed_holder(process.endpoint.sockets)
    ) is not None:  # what has proved it, or a fork that never began
        return f"process {killed}"
    if process.pid == 0:  # it was never started
        return None
    if process.ended() is None:
        return f"process {process.pid}"
    return _holder(process.pid, process.held, and_unreadable=and_unreadable) if group_exists(process.pid) else None


def group_exists(group: int) -> bool:
    """Return whether a process group has a process, a zombie included. As PID 1, reap what has ended."""
    with suppress(ChildProcessError):  # they are not ours, but init's
        os.waitpid(-group, os.WNOHANG)
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # none is left, or another user's alone (sudo): no worker
        return False
    return True


def _holder(group: int, held: frozenset[str], *, and_unreadable: bool) -> str | None:
    """Return which process of a group has one of these descriptors open (proc(5)).

    Each thread is asked: the first may be a zombie, which has none, while another still gives back memory.
    """
    try:
        for process in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - Path has no use for what is no file
            with suppress(*GONE):
                if os.getpgid(int(process)) == group and _has_open(
                    f"/proc/{process}/task", held, and_unreadable=and_unreadable
                ):
                    return f"process {process}"
    except OSError:  # no descriptor to look by
        return SOMETHING
    return None


def _has_open(threads: str, held: frozenset[str], *, and_unreadable: bool) -> bool:
    try:
        return any(each in held for each in _open_files(threads))
    except PermissionError:
        return and_unreadable


def _open_files(threads: str) -> Iterator[str]:
    for thread in os.listdir(threads):  # noqa: PTH208
        with suppress(*GONE):
            for descriptor in os.listdir(f"{threads}/{thread}/fd"):  # noqa: PTH208
                with suppress(*GONE):
                    yield os.readlink(f"{threads}/{thread}/fd/{descriptor}")  # noqa: PTH115

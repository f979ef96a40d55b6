"""Child processes: those of the launcher, forked, waited for and ended, and those that others leave to it."""

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NoReturn

from app.launcher.log import exception

PATIENCE = 0.3  # seconds that are waited for what was killed: it may have much memory to give back
PR_SET_PDEATHSIG = 1  # linux/prctl.h
STOPPED, FAILED, MISCONFIGURED = 0, 1, 2
"""Exit statuses of the launcher: asked to stop, failed while running, a setting is invalid."""
STARTUP_FAILED, IMPORT_FAILED = 3, 4
"""Exit statuses of a worker: its application reports that its startup has failed, or cannot be imported."""


def title(role: str) -> str:
    """Return what ps(1) and top(1) call a process of this project."""
    return f"granian-json: {role}"


def how_it_ended(code: int) -> str:
    """Return what an exit status, or minus the signal that ended a process, says (signal(7))."""
    if code >= 0:
        return f"exit status {code}"
    names = {each.value: each.name for each in signal.Signals}
    return f"killed by {names.get(-code, f'signal {-code}')}"


class Child:
    """A child process that does some work and ends. Unlike multiprocessing's it holds no pipe for others to inherit."""

    def __init__(
        self,
        work: Callable[[], None],
        *,
        leads_group: bool = False,
        leads_session: bool = False,
        keeps: Collection[socket.socket] = (),
    ) -> None:
        """Fork it. If it `leads_group`, what it starts is ended (SIGKILL) when it has ended. Raises OSError.

        If it `leads_session`, hence a group, that is so only if a signal has ended it.

        Of the listeners' sockets it `keeps` some open; any other fork of this process has none.
        """
        flush_streams()  # else the new process would write again what a preloaded application has printed
        parent = os.getpid()
        self.leads_group, self.leads_session = leads_group, leads_session
        _fork.keeps = keeps
        try:
            self.pid = os.fork()  # in the child it returns once the listeners' sockets are closed there
        finally:
            _fork.keeps = ()
        if self.pid == 0:
            _run(parent, self._lead, work)
        self._code: int | None = None
        _not_reaped[self.pid] = self

    def _lead(self) -> None:
        if self.leads_session:
            os.setsid()  # a Ctrl-C on the terminal is the launcher's to handle
        elif self.leads_group:
            os.setpgid(0, 0)

    @property
    def exitcode(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        return self._code if self._code is not None else self.wait(os.WNOHANG)

    def kill(self) -> None:
        """End it at once, and wait until it has ended, for PATIENCE at most: `reap_others` reaps it then."""
        self.send_kill()
        end = time.monotonic() + PATIENCE
        while self.exitcode is None and time.monotonic() < end:
            time.sleep(0.001)

    def send_kill(self) -> None:
        """End it at once, without waiting for that."""
        if self.exitcode is None:
            os.kill(self.pid, signal.SIGKILL)
            if self.leads_group:  # now, too: nobody may be there to wait for its end, which may take a while
                with suppress(ProcessLookupError, PermissionError):  # as in `wait`
                    os.killpg(self.pid, signal.SIGKILL)

    def wait(self, options: int) -> int | None:
        """Reap it if it has ended, as waitpid(2) does with `options`; return the same as `exitcode`."""
        # Its number is its own, and its group's, until it is reaped.
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | options)
            if ended is None:
                return None
            if self.leads_group or (self.leads_session and ended.si_code != os.CLD_EXITED):
                with suppress(ProcessLookupError, PermissionError):  # it led none yet, or others' alone are left (sudo)
                    os.killpg(self.pid, signal.SIGKILL)
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:  # an application in this process has reaped it, or has ignored SIGCHLD
            pid, status = self.pid, FAILED << 8
        if pid:
            self._code = os.waitstatus_to_exitcode(status)
            _not_reaped.pop(self.pid, None)
        return self._code


_not_reaped: dict[int, Child] = {}
_fork = threading.local()  # of the thread that forks: a preloaded application may have others that do


def kept_sockets() -> Collection[socket.socket]:
    """Return, at a fork, which sockets of listeners the new process keeps open: a `Child` may keep some."""
    kept: Collection[socket.socket] = getattr(_fork, "keeps", ())
    return kept


def group_exists(group: int) -> bool:
    """Return whether a process group has a process that may be signalled, a zombie included (kill(2))."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def reap_others() -> None:
    """Reap what has ended and is no `Child`: as PID 1 of a container this process gets every orphan."""
    with suppress(ChildProcessError):  # there is no child at all
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            child = _not_reaped.get(ended.si_pid)
            if child is None:
                os.waitpid(ended.si_pid, os.WNOHANG)
            else:
                child.wait(os.WNOHANG)


def kill_started() -> None:
    """End what a preloaded application has started by multiprocessing, which would wait for it at an exit.

    SIGTERM is blocked there as it is in this process. What `reap_others` has reaped may have left its number to others.
    """
    for each in multiprocessing.active_children():
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, each.pid or 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            each.kill()


def _run(parent: int, lead: Callable[[], None], work: Callable[[], None]) -> NoReturn:
    def attempt() -> int:
        lead()
        die_with(parent)
        work()
        return 0

    end_with(attempt)


def end_with(work: Callable[[], int]) -> NoReturn:
    """Do the work of a process, and end it with the status that is returned, or 1: nothing else runs at its exit."""
    status = 1
    try:
        status = work()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - reported, and the exit status says so; workers die with this process
        exception("an exception ends this process", error)
    finally:
        end_process(status)


def end_process(status: int) -> NoReturn:
    """End this process with what it has printed written, and nothing else of what runs at an exit."""
    try:
        flush_streams()
    finally:
        os._exit(status)


def flush_streams() -> None:
    """Write what has been printed, as far as it can be; a stream may be an application's own, and raise anything."""
    for name in ("stdout", "stderr"):
        with suppress(Exception):  # full, closed, none at all, or a fault of that stream: nobody depends on it
            getattr(sys, name).flush()


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone (prctl(2), PR_SET_PDEATHSIG). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before prctl took effect
        os.kill(os.getpid(), signal.SIGKILL)

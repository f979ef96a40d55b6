"""Child processes that do some work and end, and die with their parent."""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Child:
    """A child process that does some work and ends. Unlike multiprocessing's it holds no pipe for others to inherit."""

    def __init__(self, work: Callable[[], None]) -> None:
        """Fork it. Raises OSError."""
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _run(parent, work)
        self._code: int | None = None

    @property
    def exitcode(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        return self._code if self._code is not None else self._wait(os.WNOHANG)

    def kill(self) -> None:
        """End it at once, and wait until it has ended."""
        if self.exitcode is None:
            os.kill(self.pid, signal.SIGKILL)
            self._wait(0)

    def _wait(self, options: int) -> int | None:
        pid, status = os.waitpid(self.pid, options)
        if pid:
            self._code = os.waitstatus_to_exitcode(status)
        return self._code


def _run(parent: int, work: Callable[[], None]) -> NoReturn:
    """Do the work of a child process, and end it: nothing that the launcher has set up to end runs here."""
    status = 1
    try:
        die_with(parent)
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - reported, and the exit status says so; workers die with this process
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # full, closed, or closed from the start (None)
                stream.flush()
        os._exit(status)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone (prctl(2), PR_SET_PDEATHSIG). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before prctl took effect
        os.kill(os.getpid(), signal.SIGKILL)

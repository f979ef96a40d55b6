"""What rustls makes of a pair. It is asked in a process of its own, as its error is a panic, which ends the process.

The rules of app/settings/rustls.py have better words, but are not all of rustls; this is. Granian's private names that
it needs besides those of app/launcher/granian_private.py:

- `granian._granian.ASGIWorker(...)` with `.serve_mtr(scheduler, loop, signal)`: has read the pair when it returns.
"""

import asyncio
import faulthandler
import os
import re
import resource
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import setproctitle
from granian import _futures, _granian
from granian.http import HTTP1Settings

from app.launcher import signals
from app.launcher.child import Child, title
from app.settings.errors import cut

PATIENCE = 3.0  # seconds that a trial may take; it takes 20 ms
LOOK = 0.001  # seconds between looks at it
REJECTED = re.compile(rb"`Err` value: (?!Os )(.+)")  # rustls' error; one of the system, Os { ... }, is not the pair's
Tls = tuple[Any, ...]
"""What Granian calls `ssl_ctx`: whether there is TLS, the files, and how they are used."""


def why_rejected(prepare: Callable[[], Tls]) -> str | None:
    """Return why rustls rejects the pair that `prepare`, called in the new process, returns; None if it does not.

    None, too, if that process fails otherwise, takes more than PATIENCE seconds, or a signal asks to stop: what is not
    known to be wrong is for the workers to try. Raises OSError if there is no process or no descriptor for it.
    """
    panic = os.memfd_create("panic")
    try:

        def work() -> None:
            setproctitle.setproctitle(title("trial"))
            os.dup2(panic, 2)
            _try(prepare)

        child = Child(work)
        end = time.monotonic() + PATIENCE
        while child.exitcode is None and time.monotonic() < end and not signals.is_stop_pending():
            time.sleep(LOOK)
        child.kill()
        found = REJECTED.search(os.pread(panic, 2**16, 0)) if child.exitcode == -signal.SIGABRT else None
    finally:
        os.close(panic)
    return cut(found[1].decode(errors="backslashreplace")) if found else None


def _try(prepare: Callable[[], Tls]) -> None:
    """Do what a worker does until rustls has read the pair, on a socket that does not listen, and end this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    least = 0 if hard == 0 else 1  # no core: 1 says so to a program that cores are piped to, too (core(5))
    resource.setrlimit(resource.RLIMIT_CORE, (least, hard))
    faulthandler.disable()  # a panic is expected here
    os.environ["RUST_BACKTRACE"] = "0"  # it would take 60 ms
    loop, unused = asyncio.new_event_loop(), socket.socket()
    holder = _granian.SocketHolder(unused.fileno(), False, 1)  # type: ignore[call-arg]  # noqa: FBT003
    threads, http1, tls = (1, 1, 1, 30), ("1", HTTP1Settings(), None, False), prepare()
    make: Any = _granian.ASGIWorker  # its stub has other parameters
    worker = make(1, (None, holder), None, *threads, 1, *http1, None, *tls, (None, None))
    worker.serve_mtr(_futures._CBSchedulerAIO(loop, None, None, None, None), loop, _granian.WorkerSignal())  # type: ignore[no-untyped-call]  # noqa: SLF001
    os._exit(0)  # at once: its threads run, and nothing is to be put in order

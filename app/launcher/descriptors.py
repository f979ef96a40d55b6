"""Open files and threads: how many a process may have, how many it needs, and a worker that has none left."""

import errno
import functools
import os
import resource
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

from app.launcher.log import warn
from app.settings.config import Configuration
from app.settings.errors import ConfigurationError

LOOK = 5  # seconds between looks at whether a descriptor is free: each wakes an idle worker
STARVED = 3  # seconds without a free descriptor that no worker recovers from; a burst of clients is over before
WORKER_DESCRIPTORS = 48
"""Open files of a worker besides its connections; tests/launcher/test_descriptors.py counts them."""
WORKER_THREADS = 8  # Granian's, Tokio's and ours
THREAD_PAUSE = 0.5  # seconds until one that could not be started is tried again
LAUNCHER_DESCRIPTORS = 48
"""Open files of the launcher and of a server process besides their listening sockets."""
CLOSED_BY_FORK = 2  # of the four ends of pipes that multiprocessing opens for a process


def connection_limit(configuration: Configuration) -> tuple[int, str | None]:
    """Raise this process's soft limit on open files to the hard one; return how many connections a worker may keep.

    That is `backpressure`, or what the hard limit leaves, with a line that says so: a worker at its limit of files
    would spin on accept(2). Raises ConfigurationError if the limit leaves nothing.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (
            OSError,
            ValueError,
        ):  # a seccomp profile, or a hard limit above what the kernel allows by now (fs.nr_open)
            hard = soft
    server = configuration.server
    if hard == resource.RLIM_INFINITY:
        return server.backpressure, None
    # A listener that is renewed has two sockets for each worker, a reload renews all, and the launcher holds them, too.
    # A server process has a socket and two pipes for each worker, and if there are metrics another pipe of both ends, and
    # a thread with four, which a worker that replaces another inherits of each thread.
    metered = configuration.listeners[0].metrics is not None
    others = inherited()
    of_launcher = max(2 * len(configuration.listeners), 9 if metered else 3) * server.workers
    of_launcher += LAUNCHER_DESCRIPTORS + others + (2 * len(configuration.listeners) if metered else 0)
    of_worker = needed_by_worker(server.workers, metered=metered)
    # Granian's backpressure leaves WebSockets out, and they may be as many again (web_sockets.py).
    times = 2 if any(each.websockets for each in configuration.listeners) else 1
    needed, room = max(of_launcher, of_worker + times), (hard - of_worker) // times
    remedy = "raise it (ulimit -Hn, --ulimit nofile, LimitNOFILE)"
    if needed > hard:
        raise ConfigurationError(
            f"WORKERS={server.workers}: {needed} open files are needed, and the hard limit is {hard};"
            f" {remedy}, or lower WORKERS"
        )
    if room >= server.backpressure:
        return server.backpressure, None
    return room, (
        f"backpressure={server.backpressure} needs {times * server.backpressure + of_worker} open files for a worker, and the"
        f" hard limit is {hard}: each worker keeps {room} connections{', and as many WebSockets' * (times - 1)}; {remedy}"
    )


def needed_by_worker(workers: int, *, metered: bool) -> int:
    """Return how many files one of so many workers may have open besides its connections."""
    return WORKER_DESCRIPTORS + (4 * workers + 3 if metered else 0) + inherited()


@functools.cache
def inherited() -> int:
    """Return how many files this process was started with, beyond the standard streams; workers inherit them."""
    try:
        return max(0, len(open_descriptors()) - 3)
    except OSError:  # no /proc: assume none
        return 0


def open_descriptors() -> frozenset[int]:
    """Return the descriptors that this process has open."""
    return frozenset(
        each for each in (int(path.name) for path in Path("/proc/self/fd").iterdir()) if _kind(each) is not None
    )


def pipes_opened_since(before: frozenset[int]) -> list[int]:
    """Return the pipes that are open, and were not when `open_descriptors` returned `before`.

    Whatever else is new is Granian's for metrics, or an application's that is preloaded. It needs no descriptor itself.
    The kernel gives the lowest free numbers, so all are close together, but for CLOSED_BY_FORK numbers between them,
    which are free again when a process has been forked.
    """
    new: list[int] = []
    number = 0
    missed = 0  # others' that are open
    while number <= max(before, default=0) + 1 + len(new) + missed + CLOSED_BY_FORK:
        if number not in before and (kind := _kind(number)) is not None:
            if kind == stat.S_IFIFO:
                new.append(number)
            else:
                missed += 1
        number += 1
    return new


def _kind(descriptor: int) -> int | None:
    """Return the type of what is open (inode(7), S_IFMT); None if nothing is, such as the descriptor of a listing."""
    try:
        return stat.S_IFMT(os.fstat(descriptor).st_mode)
    except OSError:
        return None


def try_threads(number: int) -> None:
    """Raise RuntimeError if this process may not start so many threads now."""
    end = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(number):
            (each := threading.Thread(target=end.wait)).start()
            started.append(each)
    finally:
        end.set()
        for each in started:
            each.join()


def start_thread(run: Callable[..., object], *arguments: object) -> None:
    """Start a thread of a worker, however often it has to be tried: `try_threads` has found room, others may take it."""
    while True:
        try:
            threading.Thread(target=run, args=arguments, daemon=True).start()
        except RuntimeError:  # no more threads for now; what waits is no application's fault, and no reason to end
            time.sleep(THREAD_PAUSE)
        else:
            return


def end_when_starved_or_left(listener: str, parent: int) -> None:
    """End this worker when it has had no free descriptor for about STARVED seconds, so that another takes its place.

    And when its server process, `parent`, is gone: the kernel would have killed it then, but forgets that when the
    application changes the process's effective user (prctl(2), PR_SET_PDEATHSIG).

    Granian looks at its handshakes only while accepting succeeds (tls-listener, poll_accept): once stalled ones hold
    every descriptor none of them is given up, and nobody is served again.
    """
    starved = 0
    while starved < STARVED:
        time.sleep(1 if starved else LOOK)
        if os.getppid() != parent:
            os._exit(1)
        try:
            os.close(os.eventfd(0))
            starved = 0
        except OSError as error:  # this process has descriptors left: no reason to end, or to look no more
            starved = starved + 1 if error.errno == errno.EMFILE else 0
    warn(f"listener {listener}: a worker had no free descriptor for {STARVED} s and is replaced; see docs/limits.md")
    os._exit(1)

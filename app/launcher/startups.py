"""Which workers of a server process serve, and how large they were at first: shared with the workers and the launcher."""

import math
import mmap
import os
import signal
import struct
from contextlib import suppress

from app.launcher import memory

FIELD, END = struct.Struct("Q"), struct.Struct("d")
STARTED, ACCEPTS, ENDED = range(3)
"""Of each worker: its bytes once its startup was over, the process that accepts, and which of its processes ended last."""


class Startups:
    """What is known of a server process's workers; each field has one writer at a time, so that none undoes another's."""

    def __init__(self, workers: int) -> None:
        """Know of no worker yet. The launcher makes it, which the others are forked from."""
        self._shared = mmap.mmap(-1, 3 * FIELD.size * workers + END.size)
        self._workers = workers
        self._launcher = os.getpid()

    def _get(self, worker: int, field: int) -> int:
        return int(FIELD.unpack_from(self._shared, (3 * worker + field) * FIELD.size)[0])

    def _set(self, worker: int, field: int, value: int) -> None:
        FIELD.pack_into(self._shared, (3 * worker + field) * FIELD.size, value)

    def begin(self, worker: int, *, accepts: bool) -> int:
        """Forget the startup of a worker, in whose place another starts, and which `accepts` meanwhile, or has ended.

        Return what `restore` takes.
        """
        size = self.size(worker)
        self._set(worker, STARTED, 0)
        if not accepts:
            self._set(worker, ACCEPTS, 0)
            self._set(worker, ENDED, 0)  # the other may get the same number
        return size

    def restore(self, worker: int, size: int, process: int) -> None:
        """Put back what `begin` has returned: the worker serves on, though the other may have noted its startup."""
        self._set(worker, ACCEPTS, process)
        self._set(worker, STARTED, size)

    def note(self, worker: int) -> None:
        """Note, in a worker, that its startup is over, and its size."""
        self._set(worker, STARTED, memory.resident())

    def note_service(self, worker: int) -> None:
        """Note, in a worker, that it accepts."""
        self._set(worker, ACCEPTS, os.getpid())

    def note_end(self, worker: int, process: int) -> None:
        """Note, in the server process, that a worker has ended, and wake the launcher."""
        self._set(worker, ENDED, process)
        with suppress(ProcessLookupError, PermissionError):  # it has ended, or may not be told: it finds out later
            os.kill(self._launcher, signal.SIGCHLD)

    def set_end(self, end: float) -> None:
        """Note, in the launcher, when a drain has to be over (time.monotonic)."""
        END.pack_into(self._shared, 3 * FIELD.size * self._workers, end)

    def end(self) -> float:
        """Return when a drain has to be over (time.monotonic); infinity before there is one."""
        return float(END.unpack_from(self._shared, 3 * FIELD.size * self._workers)[0]) or math.inf

    def size(self, worker: int) -> int:
        """Return the bytes that a worker had after its startup; 0 if that is not over."""
        return self._get(worker, STARTED)

    def accepts(self, worker: int, process: int | None) -> bool:
        """Return whether it is this process of a worker that accepts, or was the last to do so."""
        return self._get(worker, ACCEPTS) == process

    def serving(self) -> list[int]:
        """Return the workers that accept connections, and have not ended."""
        return [each for each in range(self._workers) if self._get(each, ACCEPTS) not in (0, self._get(each, ENDED))]

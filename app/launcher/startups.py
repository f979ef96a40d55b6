"""Which workers of a server process serve, and how large they were at first: shared with the workers and the launcher."""

import mmap
import os
import signal
import struct
from contextlib import suppress

from app.launcher import memory

STARTED, ENDED = struct.Struct("QQ"), struct.Struct("Q")
"""Of each worker: its process and its bytes once its startup was over; and which of its processes has ended last."""
SIZE = STARTED.size + ENDED.size


class Startups:
    """What is known of a server process's workers; each field has one writer at a time, so that none undoes another's."""

    def __init__(self, workers: int) -> None:
        """Know of no worker yet. The launcher makes it, which the others are forked from."""
        self._shared = mmap.mmap(-1, SIZE * workers)
        self._workers = workers
        self._launcher = os.getpid()

    def begin(self, worker: int) -> tuple[int, int]:
        """Forget the startup of a worker, which another is going to replace; return what `restore` takes."""
        process, size = STARTED.unpack_from(self._shared, SIZE * worker)
        self.restore(worker, (0, 0))
        return process, size

    def restore(self, worker: int, startup: tuple[int, int]) -> None:
        """Put back what `begin` has returned: the worker serves on."""
        STARTED.pack_into(self._shared, SIZE * worker, *startup)

    def note(self, worker: int) -> None:
        """Note, in a worker, that its startup is over, and its size."""
        self.restore(worker, (os.getpid(), memory.resident()))

    def note_end(self, worker: int, process: int) -> None:
        """Note, in the server process, that a worker has ended, and wake the launcher."""
        ENDED.pack_into(self._shared, SIZE * worker + STARTED.size, process)
        with suppress(ProcessLookupError, PermissionError):  # it has ended, or may not be told: it finds out later
            os.kill(self._launcher, signal.SIGCHLD)

    def size(self, worker: int) -> int:
        """Return the bytes that a worker had after its startup; 0 if that is not over."""
        return int(STARTED.unpack_from(self._shared, SIZE * worker)[1])

    def serving(self) -> list[int]:
        """Return the workers that have started and not ended."""
        found = []
        for worker in range(self._workers):
            process, size = STARTED.unpack_from(self._shared, SIZE * worker)
            (ended,) = ENDED.unpack_from(self._shared, SIZE * worker + STARTED.size)
            if size and process != ended:
                found.append(worker)
        return found

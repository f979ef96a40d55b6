"""Lingering close: a connection that Granian closes in a drain ends when its client has what was sent to it.

hyper closes a connection with close(2) as soon as its last response is in the kernel. If the client has sent anything
that was not read, or sends it then (WINDOW_UPDATE, a pipelined request, a WebSocket's message), the kernel resets the
connection, and drops what the client has not got yet (RFC 9112, section 9.6; docs/upstream.md, I). So each worker keeps a
copy of its connections in a drain. When Granian has closed its own, ours is shut down for sending, and read until the
client has closed its side.
"""

import _thread
import asyncio
import fcntl
import math
import os
import resource
import socket
import stat
import termios
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from app.launcher.connections import copy_of, taken_from, unacknowledged

PAUSE = 0.02  # seconds between looks at which connections Granian has closed
SLICE, NEW = 1000, 8  # descriptors that are looked at without letting others go first; one to be kept counts for more
TURN = 0.001  # seconds for these others
FIRST_LOOK = 1.0  # seconds for which a drain waits until all connections are kept: the more, the longer it takes
SHARE = 0.25  # of a drain's time for that, if it is less
FAREWELL = 200  # bytes that an idle connection gets at most at its end: GOAWAY twice, a ping, TLS's close notify
QUIET = 1.0  # seconds without a byte from a client that has got everything; another is not to be expected
LATEST = 2.0  # seconds until a client that has got everything has to have closed its side, whatever it sends
MARGIN = 0.3  # seconds before the end of a drain in which nobody is waited for: what has not ended then is killed
STALLED = 1.5  # seconds in which a client takes nothing of what is still to be sent
READS = 16  # of 64 KiB each, in one look at a connection

_unread = bytearray(2**16)


class Connection:
    """A copy of a connection of Granian's."""

    def __init__(self, copy: socket.socket) -> None:
        """Keep it; Granian has it open."""
        self.copy = copy
        self.port: int = copy.getpeername()[1]
        self._left = unacknowledged(copy)
        self._sent = self._left + taken_from(copy)
        self._heard = self._progress = self._delivered = 0.0  # when (time.monotonic)

    def begin(self, *, is_expected: bool) -> bool:
        """Return whether the client may lose something if it is closed now, as Granian does; end our side then."""
        self._left = unacknowledged(self.copy)
        has_sent = self._left + taken_from(self.copy) - self._sent
        has_unread = any(fcntl.ioctl(self.copy, termios.FIONREAD, b"\0" * 4))
        is_in_use = is_expected or has_unread or max(has_sent, self._left) > FAREWELL
        self._heard = self._progress = time.monotonic()
        if is_in_use:
            with suppress(OSError):  # its client has reset it, which reading says, too
                self.copy.shutdown(socket.SHUT_WR)
        return is_in_use

    def is_over(self, *, is_patient: bool) -> bool:
        """Read and drop what has come; return whether the client has closed its side, or is waited for no longer.

        If it `is_patient`, a client that reads slowly and sends nothing is waited for as well.
        """
        try:
            for _ in range(READS):
                if not self.copy.recv_into(_unread, 0, socket.MSG_DONTWAIT):
                    return True
                self._heard = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:  # its client has reset it
            return True
        now = time.monotonic()
        left = unacknowledged(self.copy)
        if left:
            if left < self._left:
                self._left, self._progress = left, now
            return now > self._progress + STALLED or (not is_patient and now > self._heard + QUIET)
        self._delivered = self._delivered or now
        return now > max(self._heard, self._delivered) + QUIET or now > self._delivered + LATEST


class Lingering:
    """The connections of a worker in its drain."""

    def __init__(
        self, port: int, *, is_patient: bool, reserved: int, end: Callable[[], float], alone: float = math.inf
    ) -> None:
        """Keep connections to `port`; if it `is_patient`, a client that reads slowly is waited for, though it is silent.

        One of HTTP/2 will send WINDOW_UPDATE. One of HTTP/1.1 need not: the kernel sends it the rest after close(2).
        Until the drain, files that are `reserved` for others are not taken. `end` returns when the drain has to be over
        (time.monotonic); if it does not say, this worker drains `alone`, for so many seconds.
        """
        self.port = port
        self.is_patient = is_patient
        self.reserved = reserved
        self.end = end
        self.alone = alone
        self._has_begun = _thread.allocate_lock()
        self._looked = -math.inf  # when the last look that is over began (time.monotonic)
        self.is_short = False  # of files for copies
        self._is_drained = False  # no connection comes any more
        self._open: dict[int, Connection] = {}  # by inode; Granian has them open
        self._closed: list[Connection] = []
        self._others: set[int] = set()  # inodes that are no connections to the port
        self._expected: set[int] = set()  # ports of clients that send something

    def begin(self) -> None:
        """Keep the connections from now on, if that has not begun; for a close notice, before the response is sent."""
        if self._has_begun.acquire(blocking=False):
            try:
                threading.Thread(target=self._run, daemon=False).start()  # the process ends when it has ended
            except RuntimeError:  # no thread may be started: connections end as Granian ends them
                self._looked = math.inf

    async def before_drain(self, clients: Iterable[tuple[str, str]]) -> None:
        """Return when all connections are kept. Those of `clients` are waited for, though they have got everything."""
        self._expected = {int(port) for _, port in clients}
        now = time.monotonic()
        if math.isinf(self.end()):  # it is replaced for its size
            until, ends = now + self.alone, self.end
            self.end = lambda: min(until, ends())
        self._is_drained = True
        self.begin()
        looked = now if self.is_short or math.isinf(self._looked) else self._looked
        end = now + min(FIRST_LOOK, SHARE * (self.end() - now))
        while self._looked < looked and time.monotonic() < end:  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.001)

    def _run(self) -> None:
        main = threading.main_thread()
        took = 0.0
        while True:
            began = time.monotonic()
            is_ending = not main.is_alive()  # whatever Granian has left open has no response any more
            if began + took > self.end() - MARGIN:  # or would be after another look
                break
            with suppress(OSError):  # no descriptor is free for the listing
                self._look()
            self._looked = began
            self._closed = [each for each in self._closed if not self._has_ended(each)]
            if not self._closed and (is_ending or (self._is_drained and not self._open)):
                break
            took = time.monotonic() - began
            time.sleep(max(PAUSE, min(took, self.end() - MARGIN - time.monotonic())))
        self._looked = math.inf  # nobody waits for another look
        for each in (*self._open.values(), *self._closed):
            each.copy.close()

    def _has_ended(self, each: Connection) -> bool:
        if is_over := each.is_over(is_patient=self.is_patient):
            each.copy.close()
        return is_over

    def _look(self) -> None:
        """Keep the connections that have come, and see which ones Granian has closed. Raises OSError."""
        ours = {each.copy.fileno() for each in (*self._open.values(), *self._closed)}
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - thousands, and no use for a Path
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        half = (limit - len(numbers) + len(ours)) // 2  # of what is free; the other is the application's
        room = (half if self._is_drained else min(half, limit - self.reserved)) - len(ours)
        self.is_short = False
        seen: set[int] = set()
        looked = 0
        for number in numbers:
            looked += 1
            if looked >= SLICE:
                looked = 0
                time.sleep(TURN)
            if number in ours:
                continue
            try:
                status = os.fstat(number)
            except OSError:  # it has gone
                continue
            inode = status.st_ino
            if not stat.S_ISSOCK(status.st_mode):
                continue
            seen.add(inode)
            if inode not in self._open and inode not in self._others:
                self.is_short = self.is_short or room <= 0
                if room > 0:
                    room -= 1
                    looked += NEW
                    self._keep(number, inode)
        self._others &= seen
        for inode in self._open.keys() - seen:
            each = self._open.pop(inode)
            if each.begin(is_expected=each.port in self._expected):
                self._closed.append(each)
            else:
                each.copy.close()

    def _keep(self, number: int, inode: int) -> None:
        copy = None
        with suppress(OSError):  # it has gone, its client has, or no descriptor is free
            copy = copy_of(number, self.port)
            if copy is not None and os.fstat(copy.fileno()).st_ino == inode:  # else the number is another's by now
                self._open[inode] = Connection(copy)
                return
        if copy is not None:
            copy.close()
        else:
            self._others.add(inode)

"""Granian's metrics on a socket that the launcher has bound, changed by overriding private names.

These are the names; app/launcher/granian_private.py says when they are checked:

- `granian.server.common.AbstractServer._start_ipc()`: overridden, as it makes pipes without metrics, too, and three
  descriptors for each that a worker would inherit; `._ipc` has `(receiver, what has the sender's descriptor)` for each
  worker, `._ipc_sig` ends the receivers.
- `._start_metrics()`: overridden, as it would bind the port itself; `._metrics_exporter.run(socket, signal)`,
  `_metrics_sig`, `.metrics_enabled`, `._metrics`: what it does that with.
- `._stop_metrics()`: overridden, to do nothing.
- `granian._granian.IPCReceiverHandle(worker, descriptor)` with `.run(signal, metrics)`: takes what a worker reports.
"""

import os
import socket
import stat
from contextlib import suppress
from typing import Any

from granian import Granian, _granian
from granian.server import mp

from app.launcher.connections import copy_of
from app.launcher.descriptors import open_descriptors
from app.launcher.metrics import BACKLOG

INTERVAL = 5  # seconds between a worker's reports, each of which wakes an idle one; Granian's default is 15


class Sender:
    """The end of a pipe that a worker reports to."""

    def __init__(self, descriptor: int) -> None:
        """Hold a descriptor, for as long as the server process lives."""
        self.descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor, of which a worker makes a copy of its own."""
        return self.descriptor


class Exporting(Granian):  # type: ignore[misc, valid-type]  # either of two classes, by the interpreter
    """Granian with its metrics on a socket that was bound before it, of which workers keep nothing."""

    metrics_socket: socket.socket | None = None
    spawning: int  # the index of the worker that is being forked

    def export_on(self, listening: socket.socket | None) -> None:
        """Serve metrics on that socket, which belongs to Granian from then on; None to have none."""
        self.metrics_socket = listening
        self.metrics_enabled, self.metrics_scrape_interval = listening is not None, INTERVAL

    def _start_ipc(self) -> None:
        self._ipc: dict[int, tuple[Any, Sender]] = {}
        self._ipc_sig = _granian.WorkerSignal()
        if self.metrics_socket is None or not issubclass(Granian, mp.MPServer):  # threads report without pipes
            return
        before = open_descriptors()
        for worker in range(self.workers):
            receiver, sender = os.pipe()
            os.set_blocking(receiver, False)
            self._ipc[worker] = _granian.IPCReceiverHandle(worker, receiver), Sender(sender)
        self._pipes = open_descriptors() - before
        self._before = before - {self.metrics_socket.fileno()}
        self._port: int = self.metrics_socket.getsockname()[1]
        os.register_at_fork(before=self._note_open, after_in_child=self._close_in_worker)

    def _note_open(self) -> None:
        """Note what is open before a fork: in the worker, an application that is preloaded may open more at once."""
        self._open = open_descriptors()

    def _close_in_worker(self) -> None:
        """Close in a worker what is open for metrics in its server process: sockets and pipes.

        Otherwise one that replaces another would keep connections open that the server process closes. The pipes by
        which multiprocessing watches it stay, and its own sender; so does a pair of Unix sockets, with copies: Tokio has
        it for signals, and takes it for its own in the worker, too. And so does what threads wait by (eventfd, epoll):
        an application that is preloaded may have such of its own (gRPC does), under the same numbers.
        """
        if os.getppid() != self.pid:  # it is a worker's child
            return
        own = self._ipc[self.spawning][1].descriptor
        for descriptor in open_descriptors() & self._open - self._before - {own}:
            with suppress(OSError):  # an application's thread, which a hook of its own has started, has closed it
                if self._is_for_metrics(descriptor):
                    os.close(descriptor)

    def _is_for_metrics(self, descriptor: int) -> bool:
        if self.metrics_socket is not None and descriptor == self.metrics_socket.fileno():
            return True
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind != stat.S_IFSOCK:
            return descriptor in self._pipes
        copy = copy_of(descriptor, self._port)
        if copy is not None:
            copy.close()
        return copy is not None

    def _start_metrics(self) -> None:
        """Start the threads that take reports, and the exporter: after the workers, which are forked without them."""
        for handle, _ in self._ipc.values():
            handle.run(self._ipc_sig, self._metrics)
        self._metrics_sig = _granian.WorkerSignal()
        descriptor = self.metrics_socket.fileno() if self.metrics_socket else -1
        holder = _granian.SocketHolder(descriptor, False, BACKLOG)  # type: ignore[call-arg]  # noqa: FBT003
        self._metrics_exporter.run(holder, self._metrics_sig)

    def _stop_metrics(self) -> None:
        """Let the exporter go on until the process ends: a drain can be watched, and no connection of its is dropped.

        Ending it while a scrape is under way is a panic of pyo3's (docs/upstream.md, v).
        """

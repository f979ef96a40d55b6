"""A server process as the launcher sees it: a child that is started, proved, drained and, if it has to be, killed."""

import enum
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import setproctitle
from cryptography.hazmat.primitives.serialization import Encoding

from app.launcher import probe
from app.launcher.asgi import Application
from app.launcher.child import Child, group_exists, how_it_ended, title
from app.launcher.draining import CLOSE_NOTICE, DRAIN
from app.launcher.sockets import ReuseportGroup, clients_wait
from app.launcher.startups import Startups
from app.settings.certificate import Pair
from app.settings.config import Listener
from app.settings.tables import Server

RETRY = 0.05  # seconds until a worker whose connection broke is asked again
LOOK = 0.2  # seconds between looks at workers while one does not serve
ERROR_SIZE = 512  # bytes of the last error that are kept


@dataclass(frozen=True)
class Endpoint:
    """A listener and all that is served there; `sockets` are members of `group`, one for each worker.

    `server` has the numbers; `pair` is None without TLS.
    """

    server: Server
    listener: Listener
    pair: Pair | None
    application: Application | None
    """None if each worker imports it."""
    group: ReuseportGroup
    sockets: Sequence[socket.socket]
    dataset: bytes | None = None
    """A digest of the dataset that the application serves; None if it serves none of ours."""

    def serves_like(self, other: "Endpoint") -> bool:
        """Return whether it makes no difference to clients which of the two is served."""
        same = self.server == other.server and self.listener == other.listener and self.dataset == other.dataset
        pairs = [each.pair.served if each.pair else None for each in (self, other)]
        return same and self.application is other.application and pairs[0] == pairs[1]


@dataclass(frozen=True)
class Work:
    """What is done with Granian."""

    serve: Callable[[Endpoint, Startups], None]
    """Serve an endpoint in the calling process until DRAIN comes, and note which workers do."""
    why_rejected: Callable[[Endpoint], str | None]
    """Return a line that says why an endpoint's pair cannot be served; None if it can. Raises OSError."""


class ListenerError(Exception):
    """A server process ended without being asked to, or did not come to serve."""

    def __init__(self, listener: str, text: str) -> None:
        super().__init__(text)
        self.listener = listener


class State(enum.Enum):
    """What a server process is doing; app/launcher/lifecycle.py has the table."""

    PROVING = enum.auto()
    SERVING = enum.auto()
    SETTLING = enum.auto()
    CLOSING = enum.auto()
    DRAINING = enum.auto()
    ENDED = enum.auto()


class ServerProcess:
    """A server process, its state, and the short-lived process that asks each of its workers for a response."""

    state = State.PROVING
    deadline: float | None = None
    """When the state has to be over (time.monotonic); None if it may last."""
    accepts_until = 0.0
    """How long clients may wait in the sockets of a predecessor that is CLOSING (time.monotonic)."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.startups = Startups(len(endpoint.sockets))
        self._server: Child | None = None
        self._prober: Child | None = None
        self._error = mmap.mmap(-1, ERROR_SIZE)  # of the process that asks, which shares it

    @property
    def pid(self) -> int:
        """Its process; 0 before the start."""
        return self._server.pid if self._server else 0

    def enter(self, state: State, deadline: float | None = None) -> None:
        """Change the state; its workers know when a drain has to be over."""
        self.state, self.deadline = state, deadline
        if state is State.DRAINING and deadline is not None:
            self.startups.set_end(deadline)

    def start(self, serve: Callable[[Endpoint, Startups], None]) -> None:
        """Start the server process, which keeps no socket open but its own. Raises OSError if it cannot be forked."""

        def work() -> None:
            setproctitle.setproctitle(title(f"{self.endpoint.listener.name} server process"))
            signal.signal(DRAIN, signal.SIG_DFL)  # until Granian handles it
            serve(self.endpoint, self.startups)

        keeps = [*self.endpoint.sockets, *self.endpoint.group.beside(self.endpoint.sockets)]
        self._server = Child(work, leads_session=True, keeps=keeps)

    def prove(self, clients_to: Sequence[socket.socket], seconds: int) -> None:
        """Start to ask each worker for a response; the sockets `clients_to` get other connections meanwhile.

        Raises OSError if that process cannot be forked.
        """

        def work() -> None:
            setproctitle.setproctitle(title(f"{self.endpoint.listener.name} probe"))
            _ask_each_worker(self.endpoint, clients_to, seconds, self._error)

        self._prober = Child(work, keeps=self.endpoint.group.members)

    def proved(self) -> bool | None:
        """Return whether every worker has responded; None until that is known."""
        if self._prober is None or self._prober.exitcode is None:
            return None
        return self._prober.exitcode == 0

    def proof_was_killed(self) -> bool:
        """Return whether the process that asks was killed by somebody else, and has to be started again."""
        return self._prober is not None and (self._prober.exitcode or 0) < 0

    def late(self, start_deadline: int) -> str:
        """Return a line that says that a worker has not responded in time, and how the last attempt failed."""
        error = self._error[:].rstrip(b"\0").decode(errors="replace")
        why = f" ({error})" if error else ""
        return f"listener {self.endpoint.listener.name} did not respond within start_deadline={start_deadline} s{why}; raise it, or have its workers start faster"

    @property
    def is_asked(self) -> bool:
        """Whether there is a process that asks its workers."""
        return self._prober is not None

    def ask_again(self) -> None:
        """End the process that asks, which is to be started anew: it may attach no filter any more."""
        if self._prober is not None:
            self._prober.kill()
            self._prober = None

    def end_of_proof(self) -> None:
        """End the process that asks, whether it is through or not."""
        if self._prober is not None:
            self._prober.send_kill()
            self._prober = None

    def ended(self) -> str | None:
        """Return how it ended; None while it runs."""
        code = self._server.exitcode if self._server else 0
        if code is None:
            return None
        return f"listener {self.endpoint.listener.name} ended ({how_it_ended(code)})"

    @property
    def was_killed(self) -> bool:
        """Whether a signal has ended it."""
        return self._server is not None and (self._server.exitcode or 0) < 0

    def leaves_something(self) -> bool:
        """Return whether another process of its group is left, once it has ended."""
        return self.pid != 0 and group_exists(self.pid)

    def next_look(self, clients_to: Sequence[socket.socket]) -> float | None:
        """Return when to look again at its workers: one does not serve, nobody asks, or clients do not come to all that do.

        That is a time of time.monotonic; None for never.
        """
        sockets = list(self.endpoint.sockets)
        if self.state is State.PROVING:
            is_due = not self.is_asked
        else:
            all_serve = len(self.startups.serving()) == len(sockets)
            is_due = self.state is State.SERVING and not (all_serve and list(clients_to) == sockets)
        return time.monotonic() + LOOK if is_due else None

    def serving_sockets(self) -> list[socket.socket]:
        """Return the sockets of those of its workers that serve; all, if none does: clients have to wait somewhere."""
        return [self.endpoint.sockets[each] for each in self.startups.serving()] or list(self.endpoint.sockets)

    def has_to_accept(self, now: float) -> bool:
        """Return whether clients wait in the sockets of this predecessor, whose workers are at their limit."""
        return now < self.accepts_until and clients_wait(self.endpoint.sockets)

    def send_close_notice(self) -> None:
        """Have it send `Connection: close` on every response from now on."""
        if self._server is not None and self._server.exitcode is None:
            os.kill(self._server.pid, CLOSE_NOTICE)

    def drain(self) -> None:
        """Have it accept no more, finish what it has received, and end, even if somebody has stopped it (SIGSTOP)."""
        if self._server is not None and self._server.exitcode is None:
            os.kill(self._server.pid, DRAIN)
            self._signal_all(signal.SIGCONT)

    def kill(self) -> None:
        """End it and its workers at once, and give up what this process holds of it."""
        self.end_of_proof()
        if self._server is not None:
            self._signal_all(signal.SIGKILL)
            self._server.send_kill()  # if it is so young that it does not lead its group yet

    def _signal_all(self, number: signal.Signals) -> None:
        if self._server is not None and self._server.exitcode is None:  # else its number may be another's by now
            with suppress(ProcessLookupError):  # it does not lead its group yet
                os.killpg(self._server.pid, number)


def _ask_each_worker(
    endpoint: Endpoint, clients_to: Sequence[socket.socket], seconds: int, last_error: mmap.mmap
) -> None:
    """Return when each worker has sent a response, with the endpoint's leaf over TLS; exit 1 after `seconds`.

    A connection waits in a worker's socket until the worker accepts it. Without reuseport filters one response counts
    for all. `last_error` gets why the last attempt failed; one that `seconds` cut short says less than those before it.
    """
    group = endpoint.group
    leaf = endpoint.pair.leaf.public_bytes(Encoding.DER) if endpoint.pair else None
    end = time.monotonic() + seconds
    for special in endpoint.sockets if group.has_filters else endpoint.sockets[:1]:

        def direct(client: socket.socket, special: socket.socket = special) -> None:
            if group.has_filters:
                group.spread_but_one(clients_to, client, special)

        while True:
            left = end - time.monotonic()
            if left <= 0:
                sys.exit(1)
            try:
                if probe.ask(group.server.host, endpoint.listener, leaf=leaf, timeout=left, before_connect=direct):
                    break
            except OSError as error:
                if time.monotonic() < end or not last_error[0]:
                    last_error[:] = str(error).encode(errors="replace")[:ERROR_SIZE].ljust(ERROR_SIZE, b"\0")
            time.sleep(min(RETRY, left))

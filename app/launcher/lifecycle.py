"""The life of a listener's server processes, as a table.

| state | what it is | its deadline | what the deadline does | if the process ends |
|---|---|---|---|---|
| PROVING | forked; each worker is asked for a response; no client yet | `start_deadline` | killed, failed | failed |
| SERVING | gets all new connections | none | | the predecessor serves if it is SETTLING; else exit 1 |
| SETTLING | replaced; gets no new connection; handshakes end | 10.5 s | CLOSING | its sockets are closed |
| CLOSING | sends `Connection: close` on every response | 1 s; at a stop 0.4 s | DRAINING (1) | its sockets are closed |
| DRAINING | accepts no more, finishes requests | `drain_deadline`, `stop_deadline` | killed | its sockets are closed |
| ENDED | | | | |

A pair that is replaced on disk, or a reload of what a listener serves, starts a replacement in PROVING beside the one
that is SERVING. When every worker of it has responded it is SERVING, and its predecessor is SETTLING. What comes while
a predecessor is not ENDED waits: a listener has two server processes at most. A stop puts all into CLOSING, but those in
PROVING, which have no clients, and are killed; a second one kills all.

(1) While clients wait in a predecessor's sockets, as its workers are at their limit, it stays CLOSING for up to
`drain_deadline`.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from app.launcher.log import ListenerLog
from app.launcher.renewal import Renewal
from app.launcher.server_process import Endpoint, ListenerError, ServerProcess, State, Work
from app.settings.tables import Server

HANDSHAKES = 10.5  # seconds until the last handshake that a predecessor has begun is over: Granian gives it 10
NOTICE, NOTICE_AT_STOP = 1.0, 0.4  # seconds in which clients learn from a response that their connection ends
SPARE = 2.0  # seconds beyond start_deadline for the process that asks the workers to say that one did not respond


class Lifecycle:
    """The server processes of one listener, from the first to the last."""

    def __init__(self, endpoint: Endpoint, work: Work, on_serving: Callable[[Endpoint, str], None]) -> None:
        """Start nothing yet; `on_serving` gets what is served from then on, and what it is if it replaces something."""
        self.endpoint = endpoint
        self.group = endpoint.group
        self.work = work
        self.on_serving = on_serving
        self.current: ServerProcess | None = None
        self.replacement: ServerProcess | None = None
        self.predecessor: ServerProcess | None = None
        self.reports = ListenerLog(endpoint.listener.name)
        self.renewal = Renewal(work.rejected, self.reports)
        self.stop_end: float | None = None

    @property
    def settings(self) -> Server:
        """The numbers of what is served."""
        return self.endpoint.server

    @property
    def lives(self) -> list[ServerProcess]:
        """Its processes that have not ended."""
        return [each for each in (self.current, self.replacement, self.predecessor) if each is not None]

    @property
    def is_serving(self) -> bool:
        """Whether its first process has come to serve."""
        return self.current is not None and self.current.state is not State.PROVING

    def start(self) -> None:
        """Start the first server process. Raises ConfigurationError if the port was taken, or ListenerError."""
        self.group.listen(self.endpoint.sockets)
        self.current = ServerProcess(self.endpoint)
        try:
            self._launch(self.current)
        except OSError as error:
            name = self.endpoint.listener.name
            raise ListenerError(name, f"listener {name} cannot be started ({error})") from error

    def _launch(self, life: ServerProcess) -> None:
        life.enter(State.PROVING, time.monotonic() + life.endpoint.server.start_deadline + SPARE)
        life.start(self.work.serve)
        self._prove(life)

    def _prove(self, life: ServerProcess) -> None:
        clients_to = life if self.current is None else self.current
        try:
            life.prove(clients_to.endpoint.sockets, life.endpoint.server.start_deadline)
        except OSError as error:
            self._fail(life, f"listener {self.endpoint.listener.name} cannot be asked for a response ({error})")

    def next_event(self) -> float | None:
        """Return when `advance` has something to do, if no signal comes before (time.monotonic); None for never."""
        times = [each.deadline for each in self.lives]
        if self.stop_end is None:
            times.append(self.renewal.next_event())
        return min((each for each in times if each is not None), default=None)

    def advance(self, now: float) -> None:
        """Do what is due: take note of ends, responses and deadlines, and look at what is to be served instead.

        Raises ListenerError if the listener has no server process left.
        """
        for life in self.lives:
            if (end := life.ended()) is not None:
                self._after_end(life, end)
            elif life.state is State.PROVING and (proved := life.proved()) is not None:
                if proved:  # even if this process was stopped meanwhile, and sees it after the deadline
                    self._after_proof(life, now)
                elif life.proof_was_killed():
                    self._prove(life)
                else:
                    self._fail(life, life.late(life.endpoint.server.start_deadline))
            elif life.deadline is not None and now >= life.deadline:
                self._after_deadline(life, now)
        if self.is_serving and self.stop_end is None:
            self._renew(now)

    def _after_proof(self, life: ServerProcess, now: float) -> None:
        life.end_of_proof()
        try:
            self.group.spread(life.endpoint.sockets)
        except OSError as error:  # no memory for the filter, or none allowed (net.core.optmem_max)
            self._fail(life, f"listener {self.endpoint.listener.name} cannot be given its clients ({error})")
            return
        life.enter(State.SERVING)
        if life is self.replacement:
            self.predecessor, self.current, self.replacement = self.current, life, None
            if self.predecessor is not None:
                self.predecessor.enter(State.SETTLING, now + HANDSHAKES)
        self._serves(life.endpoint)
        how = "reloaded" if self.renewal.is_reload else "renewed"
        self.on_serving(life.endpoint, how if self.predecessor is not None else "")
        if self.predecessor is not None:
            self.reports.event(
                f"server process {life.pid} has replaced {self.predecessor.pid}, which finishes its requests"
            )

    def _serves(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.renewal.served(endpoint)

    def _after_end(self, life: ServerProcess, end: str) -> None:
        if life.state is State.PROVING:
            self._fail(life, f"{end} before it responded")
        elif life is not self.current or self.stop_end is not None:
            if life.state is State.SETTLING:
                self.reports.warn(f"{end}, replaced already; its connections are lost")
            elif life is self.predecessor:
                self.reports.event(f"server process {life.pid}, which was replaced, has ended")
            self.release(life)
        elif self.predecessor is not None and self.predecessor.state is State.SETTLING:
            self._fall_back(life, self.predecessor, end)
        else:
            raise ListenerError(self.endpoint.listener.name, end)

    def _fall_back(self, life: ServerProcess, predecessor: ServerProcess, end: str) -> None:
        """Serve on with a predecessor that has sent no close notice yet."""
        with suppress(OSError):  # the kernel spreads them itself once the sockets of `life` are closed
            self.group.spread(predecessor.endpoint.sockets)
        predecessor.enter(State.SERVING)
        self.release(life)
        self.current, self.predecessor = predecessor, None
        self._serves(predecessor.endpoint)
        self.renewal.failed(life.endpoint, time.monotonic())
        what = "settings" if self.renewal.is_reload else "pair"
        self.reports.warn(f"{end} after it had replaced another, which serves on with the {what} from before")

    def _fail(self, life: ServerProcess, reason: str) -> None:
        if life is self.current:
            raise ListenerError(self.endpoint.listener.name, reason)
        self.release(life)
        self.renewal.failed(life.endpoint, time.monotonic())
        self.renewal.report(reason)

    def release(self, life: ServerProcess) -> None:
        """Give up what is held of a process that has ended, or has to."""
        life.kill()
        life.enter(State.ENDED)
        self.group.remove(life.endpoint.sockets)
        self.current, self.replacement, self.predecessor = (
            None if each is life else each for each in (self.current, self.replacement, self.predecessor)
        )
        self.renewal.has_room(time.monotonic())

    def _after_deadline(self, life: ServerProcess, now: float) -> None:
        if life.state is State.PROVING:
            self._fail(life, life.late(life.endpoint.server.start_deadline))
        elif life.state is State.SETTLING:
            life.send_close_notice()
            life.enter(State.CLOSING, now + NOTICE)
            life.accepts_until = now + self.settings.drain_deadline
        elif life.state is State.CLOSING and self.stop_end is None and life.has_to_accept(now):
            life.deadline = now + NOTICE
        elif life.state is State.CLOSING:
            life.drain()
            if self.stop_end is not None:
                self.group.close()  # so that new connections are refused from now on
            life.enter(State.DRAINING, self.stop_end or now + self.settings.drain_deadline)
        elif life.state is State.DRAINING:
            setting = "drain_deadline" if self.stop_end is None else "stop_deadline"
            late = f"it had not ended after {setting}={getattr(self.settings, setting)} s"
            self.reports.warn(f"server process {life.pid} is killed with its workers: {late}")
            self.release(life)

    def _renew(self, now: float) -> None:
        """Start a replacement if something else is to be served; whatever fails in that changes nothing."""
        wanted: Endpoint | None = None
        try:
            busy = self.predecessor is not None or self.replacement is not None
            wanted = self.renewal.wanted(now, self.endpoint, busy=busy)
            if wanted is not None:
                self._replace(wanted)
        except Exception as error:  # noqa: BLE001 - the service goes on with what it has, whatever it is; reported
            if self.replacement is not None:
                self.release(self.replacement)
            if wanted is not None:
                self.renewal.failed(wanted, now)
            self.renewal.report(f"listener {self.endpoint.listener.name} cannot be renewed ({error!r})")

    def _replace(self, wanted: Endpoint) -> None:
        self.group.spread(self.endpoint.sockets)  # so that the new sockets get no client yet
        self.group.server = wanted.server
        sockets = self.group.bind(wanted.server.workers)
        try:
            self.replacement = ServerProcess(replace(wanted, sockets=sockets))
        except BaseException:  # no memory: nobody else has these sockets
            self.group.remove(sockets)
            raise
        self.group.listen(sockets)
        self._launch(self.replacement)

    def stop(self, now: float) -> None:
        """Stop: clients get a close notice, then everything is drained, within `stop_deadline` in all."""
        if self.stop_end is not None:
            return
        self.stop_end = now + self.settings.stop_deadline
        for life in self.lives:
            if life.state is State.PROVING:
                self.release(life)
            elif life.state in (State.SERVING, State.SETTLING):
                life.send_close_notice()
                life.enter(State.CLOSING, now + NOTICE_AT_STOP)
            else:
                latest = now + NOTICE_AT_STOP if life.state is State.CLOSING else self.stop_end
                life.deadline = min(latest, life.deadline or latest)

    def kill(self) -> None:
        """End everything at once."""
        for life in self.lives:
            self.release(life)
        self.group.close()

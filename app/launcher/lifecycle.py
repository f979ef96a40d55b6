"""The life of a listener's server processes, as a table.

| state | what it is | its deadline | what the deadline does | if the process ends |
|---|---|---|---|---|
| PROVING | forked; each worker is asked for a response; no client yet | `start_deadline` | killed, failed | failed |
| SERVING | gets all new connections | none | | the predecessor serves if it is SETTLING; else exit 1 |
| SETTLING | replaced; gets no new connection; handshakes end | 10.5 s | CLOSING | its sockets are ended |
| CLOSING | sends `Connection: close` on every response | 1 s; at a stop 0.4 s | DRAINING (1) | its sockets are ended |
| DRAINING | accepts no more, finishes requests | `drain_deadline`, `stop_deadline` | killed | its sockets are ended |
| ENDED | | | | |

A pair that is replaced on disk, or a reload of what a listener serves, starts a replacement in PROVING beside the one
that is SERVING. When every worker of it has responded it is SERVING, and its predecessor is SETTLING. What comes while
a predecessor is not ENDED waits: there are two server processes at most, but for what was killed and is slow to die. A
stop puts SERVING and SETTLING into CLOSING, shortens the deadlines of CLOSING and DRAINING, and kills what is PROVING, which
has no clients; a second one kills all.

(1) It is up to `drain_deadline` later, while clients wait in a predecessor's sockets, as its workers are at their limit.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from socket import socket

from app.launcher.log import ListenerLog
from app.launcher.renewal import Renewal
from app.launcher.server_process import Endpoint, ListenerError, ServerProcess, State, Work

HANDSHAKES = 10.5  # seconds until the last handshake that a predecessor has begun is over: Granian gives it 10
NOTICE, NOTICE_AT_STOP = 1.0, 0.4  # seconds in which clients learn from a response that their connection ends
LEAST = 0.5  # seconds to drain in at a stop, even if this process has had no turn for long (starved, stopped, swapped)
REMEDY = "raise the limits on processes (ulimit -u) and memory"
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
        self.renewal = Renewal(work.why_rejected, self.reports)
        self.stop_end: float | None = None
        self.given_up: list[ServerProcess] = []  # since then, and may hold the port

    @property
    def processes(self) -> list[ServerProcess]:
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
            raise ListenerError(name, f"listener {name} cannot be started ({error}); {REMEDY}") from error

    def _launch(self, process: ServerProcess) -> None:
        process.enter(State.PROVING, time.monotonic() + process.endpoint.server.start_deadline + SPARE)
        process.start(self.work.serve)
        self._prove(process)

    def _prove(self, process: ServerProcess) -> None:
        try:
            process.prove(self.group.clients_to or process.endpoint.sockets, process.endpoint.server.start_deadline)
        except OSError as error:
            self._fail(
                process, f"listener {self.group.listener.name} cannot be asked for a response ({error}); {REMEDY}"
            )

    def next_event(self) -> float | None:
        """Return when `advance` has something to do, if no signal comes before (time.monotonic); None for never."""
        times = [each.deadline for each in self.processes]
        if self.stop_end is None:
            times += [self.renewal.next_event(), *(each.next_look(self.group.clients_to) for each in self.processes)]
        return min((each for each in times if each is not None), default=None)

    def advance(self, now: float) -> None:
        """Do what is due: take note of ends, responses and deadlines, and look at what is to be served instead.

        Raises ListenerError if the listener has no server process left.
        """
        for process in self.processes:
            if (end := process.ended()) is not None:
                self._after_end(process, end)
            elif process.state is State.PROVING and (proved := process.proved()) is not None:
                if proved:  # even if this process was stopped meanwhile, and sees it after the deadline
                    self._after_proof(process, now)
                elif process.proof_was_killed():
                    self._prove(process)
                else:
                    self._fail(process, process.late(process.endpoint.server.start_deadline))
            elif process.deadline is not None and now >= process.deadline:
                self._after_deadline(process, now)
        if self.current is not None and self.is_serving and self.stop_end is None:
            self._follow(self.current.serving_sockets())
            self._renew(now)

    def _follow(self, serving: list[socket]) -> None:
        """Give new clients to the workers that serve; who asks those of a replacement has to know which these are."""
        asked = self.replacement
        if self.group.clients_to == serving and (asked is None or asked.is_asked):
            return
        if asked is not None:
            asked.ask_again()
        with suppress(OSError):  # no memory for the filter, or no process that asks: `next_event` has it tried again
            self.group.spread(serving)
            if asked is not None:
                asked.prove(serving, asked.endpoint.server.start_deadline)

    def _after_proof(self, process: ServerProcess, now: float) -> None:
        process.end_of_proof()
        try:
            self.group.spread(process.serving_sockets())
        except OSError as error:  # no memory for the filter, or none allowed (net.core.optmem_max)
            self._fail(process, f"listener {self.endpoint.listener.name} cannot be given its clients ({error})")
            return
        process.enter(State.SERVING)
        if process is self.replacement:
            self.predecessor, self.current, self.replacement = self.current, process, None
            if self.predecessor is not None:
                self.predecessor.enter(State.SETTLING, now + HANDSHAKES)
        self._serves(process.endpoint)
        how = "reloaded" if self.renewal.is_reload else "renewed"
        self.on_serving(process.endpoint, how if self.predecessor is not None else "")
        if (former := self.predecessor) is not None:
            self.reports.event(f"server process {process.pid} has replaced {former.pid}, which finishes its requests")

    def _serves(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.renewal.served(endpoint)

    def _after_end(self, process: ServerProcess, end: str) -> None:
        if process.state is State.PROVING:
            self._fail(process, f"{end} before it responded")
        elif process is not self.current or self.stop_end is not None:
            if process.state is State.SETTLING:
                self.reports.warn(f"{end}, replaced already; its connections are lost")
            elif process.was_killed:
                self.reports.warn(f"{end} before it was drained; the requests that it had are lost")
            elif process is self.predecessor:
                self.reports.event(f"server process {process.pid}, which was replaced, has ended")
            self.release(process)
        elif self.predecessor is not None and self.predecessor.state is State.SETTLING:
            self._fall_back(process, self.predecessor, end)
        else:
            raise ListenerError(self.endpoint.listener.name, end)

    def _fall_back(self, process: ServerProcess, predecessor: ServerProcess, end: str) -> None:
        """Serve on with a predecessor that has sent no close notice yet."""
        with suppress(OSError):  # the kernel spreads them itself once the sockets of `process` are ended
            self.group.spread(predecessor.serving_sockets())
        predecessor.enter(State.SERVING)
        self.release(process)
        self.current, self.predecessor = predecessor, None
        self._serves(predecessor.endpoint)
        self.renewal.failed(process.endpoint, time.monotonic())
        what = "settings" if self.renewal.is_reload else "pair"
        self.reports.warn(f"{end} after it had replaced another, which serves on with the {what} from before")

    def _fail(self, process: ServerProcess, reason: str) -> None:
        if process is self.current:
            raise ListenerError(self.endpoint.listener.name, reason)
        self.release(process)
        self.renewal.failed(process.endpoint, time.monotonic())
        self.renewal.report(reason)

    def release(self, process: ServerProcess) -> None:
        """Give up what is held of a process that has ended, or has to."""
        process.kill()
        if self.stop_end is not None:
            self.given_up.append(process)
        process.enter(State.ENDED)
        slots = (self.current, self.replacement, self.predecessor)
        self.current, self.replacement, self.predecessor = (None if each is process else each for each in slots)
        self.group.remove(process.endpoint.sockets)
        self.renewal.has_room(time.monotonic())

    def _after_deadline(self, process: ServerProcess, now: float) -> None:
        if process.state is State.PROVING:
            self._fail(process, process.late(process.endpoint.server.start_deadline))
        elif process.state is State.SETTLING:
            process.send_close_notice()
            process.enter(State.CLOSING, now + NOTICE)
            process.accepts_until = now + self.endpoint.server.drain_deadline
        elif process.state is State.CLOSING and self.stop_end is None and process.has_to_accept(now):
            process.deadline = now + NOTICE
        elif process.state is State.CLOSING:
            if self.stop_end is not None:
                self.group.close()  # so that new connections are refused from now on
            drained = max(self.stop_end, now + LEAST) if self.stop_end else now + self.endpoint.server.drain_deadline
            process.enter(State.DRAINING, drained)
            process.drain()
        elif process.state is State.DRAINING:
            setting = "stop_deadline" if self.stop_end and now >= self.stop_end else "drain_deadline"
            late = f"had not ended after {setting}={getattr(self.endpoint.server, setting)} s"
            self.reports.warn(f"server process {process.pid} is killed with its workers: it {late}")
            self.release(process)

    def _renew(self, now: float) -> None:
        """Start a replacement if something else is to be served; whatever fails in that changes nothing."""
        wanted: Endpoint | None = None
        try:
            wanted = self.renewal.wanted(now, self.endpoint, busy=bool(self.predecessor or self.replacement))
            if wanted is not None:
                self._replace(wanted)
        except BaseException as error:  # noqa: BLE001 - the service goes on with what it has, whatever it is; reported
            if self.replacement is not None:
                self.release(self.replacement)
            if wanted is not None:
                self.renewal.failed(wanted, now)
            self.renewal.report(f"listener {self.endpoint.listener.name} cannot be renewed ({error!r})")

    def _replace(self, wanted: Endpoint) -> None:
        self.group.spread(self.group.clients_to or self.endpoint.sockets)  # so that the new sockets get no client yet
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
        self.stop_end = now + self.endpoint.server.stop_deadline
        for process in self.processes:
            if process.state is State.PROVING:
                self.release(process)
            elif process.state in (State.SERVING, State.SETTLING):
                process.send_close_notice()
                process.enter(State.CLOSING, now + NOTICE_AT_STOP)
            else:
                latest = now + NOTICE_AT_STOP if process.state is State.CLOSING else self.stop_end
                process.enter(process.state, min(latest, process.deadline or latest))

    def still_holds_its_port(self) -> bool:
        """Return whether the port is held after a stop, and something is left of what was given up."""
        return any(each.leaves_something() for each in self.given_up) and self.group.is_held()

    def kill(self) -> None:
        """End everything at once."""
        for process in self.processes:
            self.release(process)
        self.group.close()

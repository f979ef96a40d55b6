"""The launcher's loop: start the listeners in order, watch, renew and reload them, and stop them together."""

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from app.launcher import memory, signals
from app.launcher.child import FAILED, MISCONFIGURED, STOPPED, reap_others
from app.launcher.console import curl, describe, say
from app.launcher.lifecycle import Lifecycle
from app.launcher.listing import Listing
from app.launcher.log import error, event, exception, set_up, warn
from app.launcher.notify import READY, STOPPING, notify
from app.launcher.reloading import Reload, Reloaded, Reloading
from app.launcher.server_process import Endpoint, ListenerError, State, Work
from app.settings.config import Configuration, Listener, PairFiles
from app.settings.errors import ConfigurationError

PORTS = 0.5  # seconds that are waited for what was killed to give up its port
SAME_STOP = 0.2  # seconds in which another signal is of the same stop
Example = Callable[[Listener], str]


class Supervisor:
    """The listeners, and the one loop in which everything happens to them."""

    def __init__(
        self,
        configuration: Configuration,
        endpoints: Sequence[Endpoint],
        work: Work,
        example: Example,
        reload: Reload,
    ) -> None:
        self.example = example
        self.listeners = [Lifecycle(each, work, self._report_serving) for each in endpoints]
        self.waiting = list(self.listeners)  # not started yet
        self.listing = Listing()
        self.reloading = Reloading(reload, configuration.path, self._apply)
        self.began = time.monotonic()
        self.started = self.stopping = False
        self.stop_reason, self.stop_began = "", 0.0
        self.asked = 0.0  # when a signal that asks to stop has been obeyed (time.monotonic)
        self.status = STOPPED
        self.invalid: ConfigurationError | None = None

    def run(self) -> int:
        """Serve until asked to stop, or until a listener ends; return STOPPED or FAILED.

        Raises ConfigurationError, once all are drained, if a port had been taken when its listener was to start.
        """
        while not self.stopping or self._has_processes():
            try:
                self._take(signals.wait(self._seconds()))
                reap_others()
                self._advance()
            except ListenerError as failure:
                error(f"{failure}; stopping the others", failure.listener)
                self._fail(str(failure))
            except ConfigurationError as invalid:
                self.invalid = invalid
                self._fail("a setting is invalid")
            except BaseException as failed:  # noqa: BLE001 - clients are drained, whatever it is; reported, and exit 1
                reason = f"the launcher cannot go on ({failed!r})"
                if self.stopping:
                    self._kill(reason)
                elif isinstance(failed, OSError | MemoryError):  # the machine has none left of something
                    error(f"{reason}; stopping all listeners")
                else:
                    exception(f"{reason}; stopping all listeners", failed)
                self._fail(reason)
        with suppress(OSError, MemoryError):  # it is a courtesy to the next start
            self._await_the_ports()
        seconds = time.monotonic() - self.stop_began
        status = MISCONFIGURED if self.invalid else self.status
        event(f"stopped after {seconds:.2f} s: {self.stop_reason}; exit status {status}")
        if self.invalid:
            raise self.invalid
        return self.status

    def _await_the_ports(self) -> None:
        """Wait a moment until what was killed has closed its sockets: the next launcher may want the ports at once."""
        end = time.monotonic() + PORTS
        while held := [each for each in self.listeners if each.still_holds_its_port()]:
            if time.monotonic() > end:
                names = ", ".join(each.endpoint.listener.name for each in held)
                warn(
                    f"listener {names}: what was killed, or what the application has started, still holds its port; end"
                    f" it before a start"
                )
                return
            time.sleep(0.01)
            reap_others()

    def _has_processes(self) -> bool:
        return any(each.processes for each in self.listeners)

    def _advance(self) -> None:
        if self.started:
            starting = [each.replacement.endpoint for each in self.listeners if each.replacement is not None]
            self.reloading.advance([*starting, *(each.endpoint for each in self.listeners)])
        for each in self.listeners:  # after a reload: what it has found is served from here on
            each.advance(time.monotonic())  # an import, or the listener before, may have taken a while
        self.listing.write((each.endpoint.server.host, each.endpoint.listener) for each in self.listeners)
        # Listeners start in this order: when the last one responds, all do.
        started = [each for each in self.listeners if each not in self.waiting]
        if self.stopping or not all(each.is_serving for each in started):
            return
        if self.waiting:
            self.waiting.pop(0).start()
        elif not self.started:
            self.started = True
            event(f"started after {time.monotonic() - self.began:.2f} s: all listeners respond")
            notify(READY)

    def _seconds(self) -> float | None:
        if not self._has_processes():  # before the first
            return 0.0
        times = [each.next_event() for each in self.listeners]
        times.append(self.reloading.next_event() if self.started else None)
        first = min((each for each in times if each is not None), default=None)
        return None if first is None else first - time.monotonic()

    def _take(self, received: signal.Signals | None) -> None:
        if received is not None and received in signals.STOP:
            # A terminal that closes sends SIGHUP twice, `make` passes SIGTERM on: that is one stop.
            if self.asked and received != signal.SIGHUP and time.monotonic() > self.asked + SAME_STOP:
                self._kill("a second signal asked to stop")
            self._stop(f"{received.name} was received")
            self.asked = self.asked or time.monotonic()  # another may have waited while this one was obeyed
        elif received == signal.SIGHUP and not self.stopping:
            for each in self.listeners:
                each.renewal.ask(time.monotonic())
            self.reloading.ask()

    def _apply(self, reloaded: Reloaded) -> None:
        set_up(reloaded.configuration.server.log_format)  # before the replacements are forked, which take it over
        for line in reloaded.left:
            warn(f"reload: {line}")
        by_name = {each.listener.name: each for each in reloaded.endpoints}
        changed = []
        for each in self.listeners:
            wanted = by_name.get(each.endpoint.listener.name, each.endpoint)
            each.renewal.reload(wanted)
            if each.replacement is not None or not wanted.serves_like(each.endpoint):
                changed.append(wanted.listener.name)
        what = f"{', '.join(changed)} will be served anew" if changed else "nothing that can be reloaded has changed"
        event(f"reload: {what}; {reloaded.sources}")
        memory.share()

    def _stop(self, reason: str) -> None:
        self.reloading.close()
        now = time.monotonic()
        if not self.stopping:
            self.stopping, self.stop_reason, self.stop_began = True, reason, now
            event(f"stopping: {reason}")
            notify(STOPPING)
        for each in self.listeners:
            each.stop(time.monotonic())  # the one before may have taken a while

    def _fail(self, reason: str) -> None:
        """Stop because of a failure: what has ended, or has no clients yet, is given up, all else drained as ever."""
        self.status = FAILED
        for each in self.listeners:
            for process in each.processes:
                if process.ended() is not None or process.state is State.PROVING:
                    each.release(process)
        self._stop(reason)

    def _kill(self, reason: str) -> None:
        for each in self.listeners:
            if each.processes:
                name = each.endpoint.listener.name
                warn(f"listener {name} is killed with its workers: {reason}", name)
                each.kill()

    def close(self) -> None:
        """End and give up whatever is left."""
        self.reloading.close()
        self.listing.close()
        for each in self.listeners:
            each.kill()

    def _report_serving(self, endpoint: Endpoint, how: str) -> None:
        line = describe(endpoint.server, endpoint.listener, endpoint.pair)
        if how:
            event(f"{how}: {line}", endpoint.listener.name)
            return
        say(line)
        say(f"  {curl(endpoint.server, endpoint.listener, endpoint.pair, self.example(endpoint.listener))}")
        if isinstance(endpoint.listener.tls, PairFiles) and not endpoint.group.has_filters:
            warn(
                f"listener {endpoint.listener.name}: this system has no BPF filters for SO_REUSEPORT, so its pair is"
                f" not renewed; restart the service to serve another",
                endpoint.listener.name,
            )


def run(
    configuration: Configuration, endpoints: Sequence[Endpoint], work: Work, example: Example, reload: Reload
) -> int:
    """Serve until asked to stop, and return the exit status: STOPPED or FAILED.

    `work` is what is done with Granian; `example` returns a target to show the user. The calling process's signals are the
    launcher's from here on. Raises ConfigurationError as Supervisor.run does.
    """
    signals.take_over()
    memory.share()
    supervisor = Supervisor(configuration, endpoints, work, example, reload)
    try:
        return supervisor.run()
    finally:
        supervisor.close()

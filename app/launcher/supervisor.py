"""The launcher's loop: start the listeners in order, watch them, renew their pairs, and stop them together."""

import gc
import signal
import time
from collections.abc import Callable, Sequence

from app.launcher import signals
from app.launcher.child import reap_others
from app.launcher.console import curl, describe, say, warn
from app.launcher.lifecycle import Lifecycle
from app.launcher.server_process import Endpoint, ListenerError, State, Work
from app.settings.config import Configuration, Listener, PairFiles
from app.settings.errors import ConfigurationError

STOPPED, FAILED = 0, 1
Example = Callable[[Listener], str]


class Supervisor:
    """The listeners, and the one loop in which everything happens to them."""

    def __init__(
        self, configuration: Configuration, endpoints: Sequence[Endpoint], work: Work, example: Example
    ) -> None:
        """Start nothing yet."""
        self.configuration = configuration
        self.example = example
        groups = [each.group for each in endpoints]
        self.listeners = [
            Lifecycle(configuration.server, each, groups, work, self._report_serving) for each in endpoints
        ]
        self.waiting = list(self.listeners)  # not started yet
        self.stopping = False
        self.status = STOPPED
        self.invalid: ConfigurationError | None = None

    def run(self) -> int:
        """Serve until asked to stop, or until a listener ends; return STOPPED or FAILED.

        Raises ConfigurationError, once all are drained, if a port had been taken when its listener was to start.
        """
        while not self.stopping or self._has_lives():
            try:
                self._take(signals.wait(self._seconds()))
                reap_others()
                self._advance()
            except ListenerError as failure:
                warn(f"{failure}; stopping the others")
                self._fail()
            except ConfigurationError as error:
                self.invalid = error
                self._fail()
            except (OSError, MemoryError) as error:  # the machine has none left of something
                reason = f"the launcher cannot go on ({error!r})"
                if self.stopping:
                    self._kill(reason)
                else:
                    warn(f"{reason}; stopping all listeners")
                self._fail()
        if self.invalid:
            raise self.invalid
        return self.status

    def _has_lives(self) -> bool:
        return any(each.lives for each in self.listeners)

    def _advance(self) -> None:
        now = time.monotonic()
        for each in self.listeners:
            each.advance(now)
        # Listeners start in this order: when the last one responds, all do.
        started = [each for each in self.listeners if each not in self.waiting]
        if self.waiting and not self.stopping and all(each.is_serving for each in started):
            self.waiting.pop(0).start()

    def _seconds(self) -> float | None:
        if not self._has_lives():  # before the first
            return 0.0
        times = [each.next_event() for each in self.listeners]
        first = min((each for each in times if each is not None), default=None)
        return None if first is None else first - time.monotonic()

    def _take(self, received: signal.Signals | None) -> None:
        if received in signals.STOP:
            if self.stopping:
                self._kill("a second signal asked to stop")
            self._stop()
        elif received == signal.SIGHUP and not self.stopping:
            for each in self.listeners:
                if each.watch is not None:
                    each.watch.ask(time.monotonic())

    def _stop(self) -> None:
        self.stopping = True
        now = time.monotonic()
        for each in self.listeners:
            each.stop(now)

    def _fail(self) -> None:
        """Stop because of a failure: what has ended, or has no clients yet, is given up, all else drained as ever."""
        self.status = FAILED
        for each in self.listeners:
            for life in each.lives:
                if life.ended() is not None or life.state is State.PROVING:
                    each.release(life)
        self._stop()

    def _kill(self, reason: str) -> None:
        for each in self.listeners:
            if each.lives:
                warn(f"listener {each.endpoint.listener.name} is killed with its workers: {reason}")
                each.kill()

    def close(self) -> None:
        """End and give up whatever is left."""
        for each in self.listeners:
            each.kill()

    def _report_serving(self, endpoint: Endpoint, is_renewal: bool) -> None:  # noqa: FBT001
        line = describe(self.configuration, endpoint.listener, endpoint.pair)
        if is_renewal:
            say(f"renewed: {line}")
            return
        say(line)
        say(f"  {curl(self.configuration, endpoint.listener, endpoint.pair, self.example(endpoint.listener))}")
        if isinstance(endpoint.listener.tls, PairFiles) and not endpoint.group.has_filters:
            warn(
                f"listener {endpoint.listener.name}: this system has no BPF filters for SO_REUSEPORT, so its pair is"
                f" not renewed; restart the service to serve another"
            )


def run(configuration: Configuration, endpoints: Sequence[Endpoint], work: Work, example: Example) -> int:
    """Serve until asked to stop, and return the exit status: STOPPED or FAILED.

    `work` is what is done with Granian; `example` returns a target to show the user. The calling process's signals are the
    launcher's from here on. Raises ConfigurationError as Supervisor.run does.
    """
    signals.take_over()
    gc.freeze()  # what is loaded stays in pages that all workers share
    supervisor = Supervisor(configuration, endpoints, work, example)
    try:
        return supervisor.run()
    finally:
        supervisor.close()

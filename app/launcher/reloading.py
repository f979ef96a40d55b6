"""A reload, from SIGHUP until what it has found is to be served; whatever fails in between changes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.launcher import signals
from app.launcher.child import how_it_ended
from app.launcher.log import event, warn
from app.launcher.notify import READY, notify, reloading
from app.launcher.server_process import Endpoint
from app.launcher.trial import TRIED, Trial
from app.settings.config import Configuration
from app.settings.errors import ConfigurationError

DEADLINE = 60.0  # seconds beyond start_deadline, of what is served, in which settings have to be read and checked


@dataclass(frozen=True)
class Reloaded:
    """What a reload has found: what is to be served, in place of the endpoints of the same names, and what is not."""

    configuration: Configuration
    endpoints: Sequence[Endpoint]
    left: Sequence[str]
    """Lines about what needs a restart."""
    sources: str
    """Where all of it comes from, as a part of a line."""


Reload = Callable[[Sequence[Endpoint], bool], Reloaded]
"""Reads and checks the settings; gets what is served, and whether that has been tried in another process already.

Before what is served come the replacements that start: they may be served next.

Raises ConfigurationError."""


class Reloading:
    """The settings are read and checked by a process of their own while the launcher goes on, then by the launcher.

    The launcher does nothing else while it reads them itself.
    """

    def __init__(self, reload: Reload, path: Path, serve: Callable[[Reloaded], None]) -> None:
        """Wait to be asked; `serve` gets what a reload has found in the `server.toml` at `path`."""
        self.reload = reload
        self.path = path
        self.serve = serve
        self._is_asked = False
        self._trial: Trial | None = None
        self._seconds = 0.0
        self._tried: object = None

    def _version(self) -> object:
        """Return something that changes when the file does: what was not tried may end this process."""
        try:
            status = self.path.stat()
        except OSError as error:
            return error.errno
        return status.st_ino, status.st_size, status.st_mtime_ns

    def ask(self) -> None:
        """Begin at the next `advance`, or after the reload that is under way: another may come before any is through."""
        self._is_asked = True

    def next_event(self) -> float | None:
        """Return when `advance` has something to do, if no signal comes before (time.monotonic); None for never."""
        if self._trial is not None:
            return self._trial.deadline
        return 0.0 if self._is_asked else None

    def advance(self, served: Sequence[Endpoint]) -> None:
        """Do what is due; `served` is what the listeners serve, and before it the replacements that start."""
        if self._trial is not None:
            self._take_up(self._trial, served)
        elif self._is_asked:
            self._begin(served)

    def _begin(self, served: Sequence[Endpoint]) -> None:
        self._is_asked = False
        self._tried = self._version()
        event("reload: SIGHUP was received; the settings are tried")
        notify(reloading())
        try:
            self._seconds = DEADLINE + served[-1].server.start_deadline
            self._trial = Trial(lambda: self.reload(served, False), self._seconds)  # noqa: FBT003
        except OSError as lacking:
            warn(
                f"reload: the settings cannot be tried ({lacking}); nothing has changed; raise the limit on processes (ulimit -u) or on open files (ulimit -n)"
            )
            notify(READY)

    def _take_up(self, trial: Trial, served: Sequence[Endpoint]) -> None:
        try:
            if (code := trial.exitcode()) is None:
                return
            if code == TRIED and self._version() != self._tried:
                event("reload: server.toml has changed while it was tried")
                self._is_asked = True
            elif code == TRIED:
                try:
                    found = self.reload(served, True)  # noqa: FBT003
                finally:
                    signals.take_over()  # again: an application that was imported may have ignored SIGCHLD, say
                self.serve(found)
            else:
                warn(
                    f"reload: the process that tries the settings has ended ({how_it_ended(code)}); nothing has changed"
                )
        except TimeoutError:
            warn(
                f"reload: the settings were not read within {self._seconds:.0f} s; nothing has changed; raise start_deadline, or restart"
            )
        except ConfigurationError as invalid:
            warn(f"reload: {invalid}; nothing has changed", details=invalid.details)
        except Exception as failed:  # noqa: BLE001 - the service goes on with what it has, whatever it is; reported
            warn(f"reload: the settings cannot be read ({failed!r}); nothing has changed")
        self._end_trial()
        notify(READY)

    def _end_trial(self) -> None:
        if self._trial is not None:
            self._trial.close()
            self._trial = None

    def close(self) -> None:
        """End what is tried, and forget what was asked for."""
        self._is_asked = False
        self._end_trial()

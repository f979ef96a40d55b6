"""Importing an application in the launcher itself, whose workers share it: at the start, or while it serves."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.launcher import signals
from app.launcher.asgi import Application
from app.launcher.child import FAILED, MISCONFIGURED, STOPPED, end_process
from app.launcher.loading import LOOK, late, load, load_within_memory
from app.launcher.log import error
from app.settings.application import ApplicationSettings
from app.settings.errors import ConfigurationError

INTERRUPT = signal.SIGRTMIN + 7
"""Of the launcher, to itself: an import has to end. Not SIGALRM, which the import may use."""

PAUSE = 0.1  # seconds between looks at whether an import has to end
YIELDS = 2.0  # seconds in which it has to


imported: set[ApplicationSettings] = set()
"""What this process has imported, or begun to, but for applications of this project: it keeps what that has changed."""


class _Interrupted(BaseException):
    """Raised where an import is that has to end."""


def preload(settings: ApplicationSettings, seconds: int, stopped: int = STOPPED) -> Application:
    """Import an application in this process as `load` does; end it after `seconds`, or if a signal asks to stop.

    Nothing can be raised in an import that hangs, and this process has nothing to give up yet. Its exit status is then
    `stopped`.
    """
    _note(settings)
    with _watched(settings, _end_unless, settings, seconds, stopped):
        return load_within_memory(settings)


@contextmanager
def _watched(settings: ApplicationSettings, watch: Callable[..., None], *arguments: object) -> Iterator[None]:
    """Run `watch` in a thread, with an event that is set at the end. Raises ConfigurationError if there can be none."""
    loaded = threading.Event()
    thread = threading.Thread(target=watch, args=(loaded, *arguments), daemon=True)
    try:
        try:
            thread.start()
        except RuntimeError as error:
            raise ConfigurationError(
                f"{settings} cannot be preloaded ({error}); raise the limit (ulimit -u)"
            ) from error
        yield
    finally:
        loaded.set()
        if thread.ident is not None:
            thread.join()


def _note(settings: ApplicationSettings) -> None:
    if not settings.is_ours:
        imported.add(settings)


def _end_unless(loaded: threading.Event, settings: ApplicationSettings, seconds: int, stopped: int) -> None:
    end = time.monotonic() + seconds
    while not loaded.wait(LOOK):
        if signals.is_stop_pending():
            end_process(stopped)
        if time.monotonic() > end:
            error(f"configuration: {late(settings, seconds)}")
            end_process(MISCONFIGURED)


def load_while_serving(settings: ApplicationSettings, seconds: int) -> Application:
    """Import an application as `load` does, in a launcher that serves; another process has tried the import before.

    Raises ConfigurationError as `load` does, after `seconds`, and if a signal asks to stop, which stays pending: it is
    never unblocked, as a thread that the import starts would have it from then on. An import that catches what is
    raised in it, and goes on for YIELDS after such a signal, is ended with this process.
    """
    end, is_over = time.monotonic() + seconds, False

    def reason() -> ConfigurationError | None:
        if signals.is_stop_pending():
            return ConfigurationError(f"{settings} was not imported: a signal asked to stop")
        return late(settings, seconds) if time.monotonic() > end else None

    def interrupt(*_: object) -> None:
        if not is_over and reason() is not None:
            raise _Interrupted

    _note(settings)
    former = signal.signal(INTERRUPT, interrupt)
    try:
        with _watched(settings, _interrupt_unless, settings, reason, threading.get_ident()):
            try:
                application = load(settings)
            finally:
                is_over = True
    except (_Interrupted, ConfigurationError, MemoryError) as raised:
        is_over = True
        if why := reason():
            raise why from raised
        raise
    finally:
        signal.signal(INTERRUPT, former)
    if why := reason():
        raise why
    return application


def _interrupt_unless(
    loaded: threading.Event, settings: ApplicationSettings, reason: Callable[[], Exception | None], importing: int
) -> None:
    stopped = math.inf
    while not loaded.wait(PAUSE):
        if reason() is None:
            continue
        if signals.is_stop_pending():
            stopped = min(stopped, time.monotonic())
            if time.monotonic() > stopped + YIELDS:
                error(f"{settings}: its import does not end; what is served ends with it")
                end_process(FAILED)
        signal.pthread_kill(importing, INTERRUPT)

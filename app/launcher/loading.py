"""Importing the application: by each worker, after a process of its own has tried it. preloading.py is once for all."""

import asyncio
import importlib
import inspect
import sys
import time
import traceback
from contextlib import closing, suppress
from typing import Any

import uvloop

from app.launcher import signals
from app.launcher.asgi import Application
from app.launcher.child import how_it_ended
from app.launcher.trial import TRIED, Stopped, Trial
from app.settings import start
from app.settings.application import ApplicationSettings
from app.settings.errors import ConfigurationError, cut

LOOK = 0.01  # seconds between looks at a process that tries an import


def load(settings: ApplicationSettings) -> Application:
    """Import an application, or make it if the settings name a factory. The working directory is importable.

    Raises ConfigurationError: a module or attribute that is missing, one that cannot be called as ASGI 3.0 has it
    (specification, "Applications"), or whatever the import raises, with its traceback. MemoryError is let through.
    """
    folder = start.taken().folder
    if folder is not None and not {"", str(folder)} & set(sys.path):
        sys.path.insert(0, str(folder))
    module_name, _, attribute = settings.target.partition(":")
    # A folder may be there since the start, or another by the same name (a release's link).
    with suppress(Exception):  # a finder of an editable install may have no such method; Python's own come before it
        importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
        application: Application = _made(settings, found) if settings.factory else found
        _check_callable(settings, application)
    except (ConfigurationError, MemoryError):  # the bundled application says itself what is wrong; a limit is no fault
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _failed(settings, error) from error  # it is there, but something that it imports is not
        raise ConfigurationError(f"{settings}: {_missing(error.name)}") from error
    except BaseException as error:
        if isinstance(error, AttributeError) and error.obj is sys.modules.get(module_name):
            raise ConfigurationError(
                f"{settings}: module {module_name} has no attribute {error.name}; name one that it has"
            ) from error
        raise _failed(settings, error) from error
    return application


def _missing(name: str) -> str:
    """Return that there is no module of that name, with a way out: its package may be another one than is meant."""
    package = name.rpartition(".")[0]
    if package not in sys.modules:
        return f"there is no module {cut(name)}; set PYTHONPATH to the folder that holds it"
    found = sys.modules[package]
    places = getattr(found, "__path__", None) or [getattr(found, "__file__", None) or "Python itself"]
    return (
        f"there is no module {cut(name)} in {cut(', '.join(map(str, places)))}, where {package} was found; correct the name, or"
        f" rename your {package} if that is another"
    )


def _made(settings: ApplicationSettings, factory: Any) -> Application:  # noqa: ANN401 - whatever was found
    """Return what a factory returns. Raises ConfigurationError if it is none, or whatever it raises."""
    if inspect.iscoroutinefunction(factory):
        raise ConfigurationError(
            f"{settings} is an async function; if it is the application, remove factory, else return it from one that is not"
        )
    try:
        inspect.signature(factory).bind()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{settings} cannot be called without arguments ({cut(str(error))}); if it is the application, remove factory"
        ) from error
    made: Application = factory()
    return made


def _failed(settings: ApplicationSettings, error: BaseException) -> ConfigurationError:
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - the application's code, too; the traceback below is of what it raised first
        text = "(an error without a text)"
    what = cut(f"{type(error).__name__}: {text}").replace("\n", " ")
    return ConfigurationError(f"{settings} cannot be imported ({what}); correct what raises it", _traceback(error))


def _traceback(error: BaseException) -> str:
    try:
        described = traceback.TracebackException.from_exception(error)
        described.stack = traceback.StackSummary.from_list(
            [each for each in described.stack if each.filename != __file__ and "importlib" not in each.filename]
        )
        return "".join(described.format())
    except Exception:  # noqa: BLE001 - lines of a source that cannot be read as it says, or an odd SyntaxError
        frames = traceback.walk_tb(error.__traceback__)
        return "".join(f'  File "{frame.f_code.co_filename}", line {number}\n' for frame, number in frames)


def _check_callable(settings: ApplicationSettings, application: object) -> None:
    """Raise ConfigurationError unless `application` can be called with scope, receive and send."""
    if not callable(application):
        raise ConfigurationError(
            f"{settings} is {cut(type(application).__name__)}, which cannot be called; name an ASGI application"
        )
    try:
        signature = inspect.signature(application)
    except ValueError:  # made by C: nothing is known of it
        return
    try:
        signature.bind({}, None, None)
    except TypeError as error:
        remedy = "name an ASGI application" if settings.factory else "if it makes the application, set factory = true"
        raise ConfigurationError(f"{settings} takes no (scope, receive, send): {cut(str(error))}; {remedy}") from error


def check(settings: ApplicationSettings, seconds: int) -> None:
    """Try in a process of its own whether an application can be imported: the launcher's stays as it was.

    Raises ConfigurationError as `load` does, and after `seconds`; Stopped if a signal asks to stop meanwhile.
    """

    def attempt() -> None:
        if not settings.preload:  # else the launcher imports it, which has no loop, and blocks signals
            asyncio.set_event_loop(uvloop.new_event_loop())  # as a worker does before
            signals.unblock_as_in_a_worker()
        load_within_memory(settings)

    try:
        made = Trial(attempt, seconds)
    except OSError as error:
        raise not_tried(str(settings), error) from error
    with closing(made) as trial:
        try:
            _await_end(trial, settings, seconds)
        except ConfigurationError as error:
            if signals.is_stop_pending():  # a service manager sends it to all processes, to those of the import, too
                raise Stopped from error
            raise


def _await_end(trial: Trial, settings: ApplicationSettings, seconds: int) -> None:
    """Wait until an import has been tried. Raises ConfigurationError, or Stopped."""
    try:
        while (code := trial.exitcode()) is None:
            if signals.is_stop_pending():
                raise Stopped
            time.sleep(LOOK)
    except TimeoutError as error:
        raise late(settings, seconds) from error
    if code != TRIED:
        raise ConfigurationError(
            f"{settings} ends the process that imports it ({how_it_ended(code)}); correct what does"
        )


def not_tried(what: str, error: OSError) -> Stopped | ConfigurationError:
    """Return what to raise if there is no process to try something in: Stopped if a signal asks to stop."""
    if signals.is_stop_pending():
        return Stopped()
    return ConfigurationError(
        f"{what} cannot be tried ({error.strerror}); raise the limit on processes (ulimit -u) or on open files (ulimit -n)"
    )


def load_within_memory(settings: ApplicationSettings) -> Application:
    """Import an application as `load` does; want of memory for another than ours is a ConfigurationError, too."""
    try:
        return load(settings)
    except MemoryError as error:
        if settings.is_ours:  # it is the dataset
            raise
        raise ConfigurationError(
            f"{settings} cannot be imported: there is not enough memory; raise the limit (ulimit -v, -d), or import less"
        ) from error


def late(settings: ApplicationSettings, seconds: int) -> ConfigurationError:
    """Return what to raise after an import has taken longer than `seconds`."""
    return ConfigurationError(
        f"{settings} has not been imported within start_deadline={seconds} s; raise it, or import less"
    )

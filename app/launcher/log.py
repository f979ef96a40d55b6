"""The log: one format on stderr for the launcher, server processes, workers, and applications that set up none.

A record is a line: time (ISO 8601, UTC), level, listener (`-` for the launcher), process and message. Further lines of
it, as of a traceback, are indented by two spaces, so that nothing in a message can be taken for another record. As JSON
a record is one object on one line, and a request's has its parts as fields.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from app.launcher.output import Output, printable

ACCESS, CHILDREN = "granian.access", "_granian."
OF_GRANIAN = {"_granian": logging.WARNING, ACCESS: logging.INFO}
"""Granian's loggers, and from which level on they log."""
DETAILS = "granian_json_details"  # of a record: a name that no application takes
PLAIN = "plain"
"""Beside the formats of app/settings/tables.py: messages alone, for a command that somebody has typed."""
FIELDS = ["timestamp", "levelname", "listener", "process", "message"]
REQUEST = {"addr": "client", "dt_ms": "duration_ms"} | {
    each: each for each in ("method", "scheme", "path", "query_string", "protocol", "status")
}
"""What Granian calls the parts of a request (granian/log.py), and what they are called as JSON."""

_context = {"listener": "-"}


def event(message: str, listener: str | None = None) -> None:
    """Log what happens as it should."""
    _log(logging.INFO, message, listener)


def warn(message: str, listener: str | None = None, details: str = "") -> None:
    """Log what deserves a look; `details` are further lines of it, such as a traceback."""
    _log(logging.WARNING, message, listener, details)


class ListenerLog:
    """What is logged of one listener."""

    def __init__(self, listener: str) -> None:
        """Log for the listener of that name."""
        self.listener = listener

    def event(self, message: str) -> None:
        """Log what happens as it should."""
        event(message, self.listener)

    def warn(self, message: str) -> None:
        """Log what deserves a look."""
        warn(message, self.listener)


def error(message: str, listener: str | None = None, details: str = "") -> None:
    """Log what ends something, or keeps it from starting."""
    _log(logging.ERROR, message, listener, details)


def exception(message: str, raised: BaseException) -> None:
    """Log an exception with its traceback."""
    _write(logging.ERROR, message, {}, raised)


def _log(level: int, message: str, listener: str | None, details: str = "") -> None:
    _write(level, message, {"listener": listener or _context["listener"], DETAILS: _encodable(details)})


def _write(level: int, message: str, more: Mapping[str, str], raised: BaseException | None = None) -> None:
    """Write a record without a logger: an application may disable all that there are (logging.config, logging.disable)."""
    _handler.handle(_record(level, message, more, raised))


def _record(
    level: int, message: str, more: Mapping[str, str], raised: BaseException | None = None
) -> logging.LogRecord:
    about = (type(raised), raised, raised.__traceback__) if raised is not None else None
    record = logging.LogRecord(__name__, level, __file__, 0, "%s", (printable(message),), about)
    record.__dict__.update(more)
    return record


def _encodable(text: str) -> str:
    """Escape what is no Unicode (a surrogate of its own)."""
    return text.encode(errors="backslashreplace").decode()


def _complete(record: logging.LogRecord) -> None:
    """Give a record what all have here."""
    record.process = os.getpid()  # also where logging.logProcesses is off
    record.timestamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    record.listener = getattr(record, "listener", _context["listener"])
    if details := record.__dict__.pop(DETAILS, ""):
        record.exc_text = details.rstrip()
    if record.name == ACCESS and isinstance(record.args, Mapping) and record.args.keys() >= REQUEST.keys():
        parts: dict[str, Any] = {ours: record.args.get(theirs) for theirs, ours in REQUEST.items()}
        record.__dict__.update(parts)
        target = parts["path"] + (f"?{parts['query_string']}" if parts["query_string"] else "")
        quoted = json.dumps(f"{parts['method']} {target} {parts['protocol']}", ensure_ascii=False)
        record.msg, record.args = f"{parts['client']} {quoted} {parts['status']} {parts['duration_ms']:.3f} ms", ()


class _Lines(logging.Formatter):
    """A record as a line, and further lines after `indent`."""

    def __init__(self, form: str, indent: str) -> None:
        super().__init__(form)
        self.separator = f"\n{indent}"

    def format(self, record: logging.LogRecord) -> str:
        return self.separator.join(map(printable, super().format(record).split("\n")))


class _Object(JsonFormatter):
    """A record as a JSON object that strict parsers take: without NaN, and all text is Unicode."""

    def __init__(self) -> None:
        super().__init__(
            FIELDS,
            rename_fields={"levelname": "level", "process": "pid", "exc_info": "traceback"},
            json_serializer=partial(json.dumps, allow_nan=False),
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return {key: _encodable(value) if isinstance(value, str) else value for key, value in log_data.items()}


FORMATTERS = {
    PLAIN: _Lines("%(message)s", ""),
    "text": _Lines("%(timestamp)s %(levelname)s %(listener)s %(process)d %(message)s", "  "),
    "json": _Object(),
}


class LogHandler(logging.Handler):
    """Records as lines on stderr, in the format that `set_up` was called with."""

    chosen: logging.Formatter = FORMATTERS[PLAIN]

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's lines."""
        _complete(record)
        return self.chosen.format(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or drop it: nobody waits for a reader."""
        try:
            text = self.format(record)
        except Exception as raised:  # noqa: BLE001 - an application's call, whose arguments do not fit its message
            text = self._formatted_badly(record, raised)
        _err.lines(text)

    def _formatted_badly(self, record: logging.LogRecord, raised: Exception) -> str:
        """Return lines about a record that cannot be formatted, with the traceback of that if it can be."""
        message = f"{record.pathname}:{record.lineno} logs what cannot be formatted"
        try:
            return self.format(_record(logging.ERROR, message, {}, raised))
        except Exception:  # noqa: BLE001 - a source that cannot be read as it says, for one: the line says where
            return self.format(_record(logging.ERROR, f"{message} ({type(raised).__name__})", {}))


def _note(text: str) -> str:
    """Return the line that Output adds by itself."""
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
    _complete(record)
    return LogHandler.chosen.format(record)


_err = Output(2, _note)
_stock_basic_config = logging.basicConfig
_handler = LogHandler()


def _basic_config(last_resort: LogHandler, **settings: Any) -> None:  # noqa: ANN401 - logging's
    """Set up the root logger as logging.basicConfig does, which `logging.warning` calls, too, but without settings."""
    if settings or logging.root.handlers:
        _stock_basic_config(**settings)
    else:
        logging.root.addHandler(last_resort)


def set_up(form: str) -> None:
    """Write every record from now on as `form` (a key of FORMATTERS), and so what ends a process or a thread.

    An application that sets up no logging of its own logs the same way, from WARNING on (logging.lastResort).
    """
    LogHandler.chosen = FORMATTERS[form]
    last_resort = LogHandler()
    last_resort.setLevel(logging.WARNING)
    logging.lastResort = last_resort  # any handler will do (logging.Logger.callHandlers)
    logging.basicConfig = partial(_basic_config, last_resort)
    sys.excepthook = lambda _, raised, __: exception("an exception ends this process", raised)
    threading.excepthook = lambda ended: (
        exception("an exception ends a thread", ended.exc_value) if ended.exc_value else None
    )


class _Kept(logging.Logger):
    """A logger that cannot be disabled."""

    disabled = property(lambda _: False, lambda *_: None)


def _logger(name: str) -> logging.Logger:
    """Make a logger as logging does: Granian has one for each of its modules, once it has something to say."""
    return (_Kept if name.startswith(CHILDREN) else logging.getLoggerClass())(name)


def keep_loggers() -> None:
    """Have nobody disable Granian's loggers: logging.config does that to all that it does not name, unless told not to."""
    for name in OF_GRANIAN:
        logging.getLogger(name).__class__ = _Kept
    logging.root.manager.loggerClass = _logger  # type: ignore[assignment]  # it is only called


def set_up_granian(*_: object) -> None:
    """Give Granian's loggers their handler. Granian's own way closes every handler that an application has made before."""
    for name, level in OF_GRANIAN.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [LogHandler()], False
        logger.setLevel(level)


def set_listener(name: str) -> None:
    """Have every record of this process name a listener."""
    _context["listener"] = name

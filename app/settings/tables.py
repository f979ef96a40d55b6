"""The shape of `server.toml`: its tables, and the range of each value."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import inspect

from app.settings import start
from app.settings.errors import ConfigurationError, shown

MOST_WORKERS = 512
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Workers = Annotated[int, msgspec.Meta(ge=1, le=MOST_WORKERS)]
Connections = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=3600)]
Protocol = Literal["http/1.1", "h2c", "auto"]
"""h2c: HTTP/2 by prior knowledge (RFC 9113, section 3.3); auto: HTTP/2 or HTTP/1.1 over TLS, by ALPN."""
Runs = Literal["inline", "loop"]
"""Where an application runs: in the thread that brings the request, or in the worker's event loop."""
LogFormat = Literal["text", "json"]


class ApplicationTable(msgspec.Struct, forbid_unknown_fields=True):
    """The `[application]` table, or a listener's own; what is left out follows from what is imported."""

    import_: str = msgspec.field(name="import")
    factory: bool = False
    runs: Runs | None = None
    preload: bool | None = None


class TlsTable(msgspec.Struct, forbid_unknown_fields=True):
    """The files of a listener's pair and of its clients' authority, relative to the folder of `server.toml`."""

    certificate: str
    key: str
    client_authority: str | None = None
    client_revocations: str | None = None


class ListenerTable(msgspec.Struct, forbid_unknown_fields=True):
    """A `[[listener]]` table; a disabled listener is served if the variable of its port is set."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    port: Port
    port_variable: str | None = None
    enabled: bool = True
    protocol: Protocol = "http/1.1"
    websockets: bool = False
    trusted_proxies: list[str] = []
    tls: TlsTable | None = None
    application: ApplicationTable | None = None


def _available_cpus() -> int:
    return min(start.taken().cpus, MOST_WORKERS)


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The `[server]` table; times are seconds."""

    host: str = "127.0.0.1"
    backlog: Connections = 16384
    backpressure: Connections = 16384
    header_read_timeout: Annotated[int, msgspec.Meta(ge=1, le=60)] = 30
    unread_timeout: Seconds = 30
    start_deadline: Seconds = 30
    stop_deadline: Seconds = 3
    certificate_interval: Annotated[int, msgspec.Meta(ge=0, le=86400)] = 5
    drain_deadline: Seconds = 30
    worker_growth: Annotated[int, msgspec.Meta(ge=64, le=2**20)] = 512
    """MiB that a worker may grow by until it is replaced."""
    log_format: LogFormat = "text"
    access_log: bool = False
    workers: Workers = msgspec.field(default_factory=_available_cpus)


class MetricsTable(msgspec.Struct, forbid_unknown_fields=True):
    """The `[metrics]` table: where the metrics of the first listener are; each further one has the next port."""

    port: Port | None = None
    host: str = "127.0.0.1"


class ServerFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The whole of `server.toml`."""

    server: Server = msgspec.field(default_factory=Server)
    listener: Annotated[list[ListenerTable], msgspec.Meta(min_length=1)]
    application: ApplicationTable | None = None
    metrics: MetricsTable | None = None


LONGEST = 1024
"""Bytes of the longest line: tomllib takes the square of a dotted key's parts."""
PLACE = re.compile(r"(.*) - at `\$\.?(.*)`", re.DOTALL)  # how msgspec says what is wrong, and where


def decode(path: Path, content: bytes) -> ServerFile:
    """Return the tables of a `server.toml`. Raises ConfigurationError: file, setting, value, way out."""
    if max(map(len, content.split(b"\n"))) > LONGEST:
        raise ConfigurationError(f"{shown(path)} has a line of more than {LONGEST} bytes; shorten it")
    try:
        tables = msgspec.toml.decode(content)
    except ValueError as error:  # of tomllib, or of an integer with thousands of digits
        raise ConfigurationError(f"{shown(path)}: {shown(error)}; correct it there (https://toml.io)") from error
    except RecursionError as error:
        raise ConfigurationError(
            f"{shown(path)} nests tables too deeply; no setting is deeper than listener.tls.certificate"
        ) from error
    try:
        return msgspec.convert(tables, ServerFile)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{shown(path)}: {_located(tables, str(error))}") from error


def _located(tables: Any, error: str) -> str:  # noqa: ANN401 - whatever the file has
    """Return what msgspec says of `tables`: the setting, its value unless that is a table, and what may stand there."""
    found = PLACE.fullmatch(error)
    what, place = found.groups() if found else (error, "")
    value, wanted = tables, inspect.type_info(ServerFile)
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", place):
        if index and isinstance(value, list):
            value = value[int(index)] if int(index) < len(value) else None  # the place may be a key's own text
        else:
            value = value.get(key) if isinstance(value, dict) else None
        wanted = _member(wanted, key)
    setting = shown(place)
    if isinstance(value, str | int | float):
        with suppress(ValueError):  # more digits than PYTHONINTMAXSTRDIGITS allows
            setting += f" = {shown(repr(value))}"
    return f"{setting + ': ' if place else ''}{shown(what)}; {_way_out(wanted)}"


def _member(outer: inspect.Type, key: str) -> inspect.Type:
    """Return what may stand in a table under `key`, or in a list."""
    if isinstance(outer, inspect.ListType):
        return _alone(outer.item_type)
    fields = outer.fields if isinstance(outer, inspect.StructType) else ()
    return next((_alone(each.type) for each in fields if each.encode_name == key), outer)


def _alone(wanted: inspect.Type) -> inspect.Type:
    """Return what a setting is if it is there: TOML cannot say None."""
    types = wanted.types if isinstance(wanted, inspect.UnionType) else (wanted,)
    return next(each for each in types if not isinstance(each, inspect.NoneType))


def _way_out(wanted: inspect.Type) -> str:
    match wanted:
        case inspect.StructType():
            way_out = f"its settings are {', '.join(each.encode_name for each in wanted.fields)}"
        case inspect.LiteralType():
            way_out = f"give one of {', '.join(map(str, wanted.values))}"
        case inspect.IntType():
            way_out = f"give a whole number from {wanted.ge} to {wanted.le}"
        case inspect.BoolType():
            way_out = "give true or false"
        case inspect.ListType(item_type=inspect.StructType()):
            way_out = "give one table or more, each with its name in double brackets"
        case inspect.ListType():
            way_out = "give a list of texts in quotes"
        case _:
            way_out = "give a text in quotes"
    return way_out

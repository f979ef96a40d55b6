"""What to serve and how: `server.toml`, overridden by the environment, checked once."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from app.settings import files
from app.settings.errors import ConfigurationError

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Protocol = Literal["http/1.1", "h2c"]  # h2c: HTTP/2 by prior knowledge (RFC 9113, section 3.3)


class TlsTable(msgspec.Struct, forbid_unknown_fields=True):
    """Where a listener's pair lies, as seen from the folder of `server.toml`."""

    certificate: str
    key: str


class ListenerTable(msgspec.Struct, forbid_unknown_fields=True):
    """A `[[listener]]` table; one that is not enabled is served where its port's variable is set."""

    name: str
    port: Port
    port_variable: str
    enabled: bool = True
    protocol: Protocol = "http/1.1"
    tls: TlsTable | None = None


class ServerTable(msgspec.Struct, forbid_unknown_fields=True):
    """The `[server]` table; times are seconds."""

    host: str
    backlog: Positive
    backpressure: Positive
    header_read_timeout: Annotated[int, msgspec.Meta(ge=1, le=60)]
    unread_timeout: Annotated[int, msgspec.Meta(ge=1, le=3600)]
    start_deadline: Positive
    stop_deadline: Positive
    certificate_interval: Annotated[int, msgspec.Meta(ge=0)]
    workers: Positive | None = None


class ServerFile(msgspec.Struct, forbid_unknown_fields=True):
    """The whole of `server.toml`."""

    server: ServerTable
    listener: Annotated[list[ListenerTable], msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class PairFiles:
    """Where to find a pair: each file beside the name of the setting that says so."""

    certificate: tuple[str, Path]
    key: tuple[str, Path]


@dataclass(frozen=True)
class Listener:
    """A port to serve, and over what."""

    name: str
    port: int
    port_variable: str
    protocol: Protocol
    tls: bool
    pair_files: PairFiles | None
    """None where there is no TLS, or where a pair has to be made for this run."""


@dataclass(frozen=True)
class Configuration:
    """All that the launcher needs to know; times are seconds."""

    host: str
    workers: int
    backlog: int
    backpressure: int
    header_read_timeout: int
    unread_timeout: int
    start_deadline: int
    stop_deadline: int
    certificate_interval: int
    listeners: tuple[Listener, ...]


def read(path: Path, environment: Mapping[str, str]) -> Configuration:
    """Read `server.toml` at `path` and what of `environment` overrides it.

    HOST, WORKERS, TLS_CERT, TLS_KEY and the variable that each listener names for its port.
    Raises ConfigurationError, which names the file or the variable at fault.
    """
    remedy = "name a readable file with --config"
    try:
        tables = msgspec.toml.decode(files.read("--config", path, remedy), type=ServerFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path}: {error}; see the server.toml of the project for what may stand there"
        ) from error
    server = tables.server
    listeners = tuple(
        _listener(table, path.resolve().parent, environment)
        for table in tables.listener
        if table.enabled or table.port_variable in environment
    )
    if not listeners:
        raise ConfigurationError(f"{path}: no listener is enabled; enable one, or set the variable of its port")
    for index, listener in enumerate(listeners):
        for other in listeners[:index]:
            if listener.name == other.name:
                raise ConfigurationError(f"{path}: two listeners have the name {listener.name}; rename one")
            if listener.port == other.port:
                raise ConfigurationError(
                    f"{listener.port_variable}={listener.port}: listener {listener.name} would share it with"
                    f" listener {other.name} ({other.port_variable}={other.port}); give each a port of its own"
                )
    workers = _integer(environment, "WORKERS", 1, 1024)
    return Configuration(
        host=_host(environment.get("HOST", server.host)),
        workers=workers or server.workers or len(os.sched_getaffinity(0)),
        backlog=server.backlog,
        backpressure=server.backpressure,
        header_read_timeout=server.header_read_timeout,
        unread_timeout=server.unread_timeout,
        start_deadline=server.start_deadline,
        stop_deadline=server.stop_deadline,
        certificate_interval=server.certificate_interval,
        listeners=listeners,
    )


def _integer(environment: Mapping[str, str], variable: str, least: int, most: int) -> int | None:
    text = environment.get(variable)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise ConfigurationError(f"{variable}={text!r} is not an integer from {least} to {most}; correct or unset it")
    return int(text)


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ConfigurationError(
            f"HOST={text!r} is not an IP address; use 127.0.0.1 for this machine alone, 0.0.0.0 or :: for all"
        ) from error


def _listener(table: ListenerTable, folder: Path, environment: Mapping[str, str]) -> Listener:
    port = _integer(environment, table.port_variable, 1, 65535)
    if table.protocol == "h2c" and table.tls:
        raise ConfigurationError(
            f'listener {table.name}: protocol = "h2c" is HTTP/2 in cleartext; remove its tls table, or the protocol'
        )
    return Listener(
        name=table.name,
        port=port or table.port,
        port_variable=table.port_variable,
        protocol=table.protocol,
        tls=table.tls is not None,
        pair_files=_pair_files(table.name, table.tls, folder, environment) if table.tls else None,
    )


def _pair_files(name: str, table: TlsTable, folder: Path, environment: Mapping[str, str]) -> PairFiles | None:
    """Decide which pair is served; None where neither file was asked for or is there."""
    pair = PairFiles(
        certificate=(
            f"listener {name}: TLS_CERT",
            Path(environment.get("TLS_CERT", folder / table.certificate)),
        ),
        key=(f"listener {name}: TLS_KEY", Path(environment.get("TLS_KEY", folder / table.key))),
    )
    if "TLS_CERT" in environment or "TLS_KEY" in environment:
        return pair
    # A broken link, or a folder that may not be searched, is not "no pair": it is reported when it is read.
    paths = (pair.certificate[1], pair.key[1])
    present = [path for path in paths if files.is_there(path)]
    missing = [path for path in paths if path not in present]
    if present and missing:
        raise ConfigurationError(
            f"listener {name}: {present[0]} is there but {missing[0]} is missing; add it, or remove the other"
        )
    return pair if present else None

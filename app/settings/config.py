"""What to serve and how: `server.toml`, overridden by the environment."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from app.settings import tables, variables
from app.settings.application import ApplicationSettings, check_preloaded, main_application, of_table
from app.settings.errors import ConfigurationError, cut, shown
from app.settings.files import NamedFile
from app.settings.metrics import Metrics, addresses
from app.settings.proxies import Network, network
from app.settings.tables import MOST_WORKERS, ListenerTable, LogFormat, Protocol, Server, TlsTable

DEFAULT_PATH = Path(__file__).parents[2] / "server.toml"
CONFIG_VARIABLE, SELF_SIGNED_VARIABLE = "CONFIG", "SELF_SIGNED"
LARGEST = 2**16
"""Bytes of the largest server.toml."""


@dataclass(frozen=True)
class SelfSigned:
    """A pair that is made for this run."""


@dataclass(frozen=True)
class PairFiles:
    """A pair in two files."""

    certificate: NamedFile
    key: NamedFile
    client_authority: NamedFile | None = None
    """Whose certificates clients have to have; None if they need none."""
    client_revocations: NamedFile | None = None


@dataclass(frozen=True)
class Listener:
    """A port to serve, its protocol, what it serves, and where its pair comes from; None without TLS."""

    name: str
    port: int
    port_variable: str | None
    """The variable that overrides the port."""
    port_setting: str
    """What has set the port, for errors: its variable, or server.toml."""
    protocol: Protocol
    application: ApplicationSettings
    tls: SelfSigned | PairFiles | None
    websockets: bool = False
    trusted_proxies: tuple[Network, ...] = ()
    """Whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    metrics: Metrics | None = None


def needs_client_certificate(listener: Listener) -> bool:
    """Return whether a listener refuses clients without a certificate."""
    return isinstance(listener.tls, PairFiles) and listener.tls.client_authority is not None


@dataclass(frozen=True)
class Configuration:
    """All that the launcher needs to know."""

    path: Path
    server: Server
    listeners: tuple[Listener, ...]
    host_setting: str
    """What has set the host, for errors: HOST, or server.toml."""


def reachable(host: str) -> str:
    """Return the address under which this machine reaches a listener bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - recognised, not bound


def path_of(argument: str | None, environment: Mapping[str, str]) -> NamedFile:
    """Return which `server.toml` is read: `--config`, else CONFIG, else the project's own."""
    if argument is not None:
        return NamedFile.of("--config", argument, "give the path of a server.toml")
    named = environment.get(CONFIG_VARIABLE)
    if named is not None:
        return NamedFile.of(CONFIG_VARIABLE, named, "give the path of a server.toml, or unset it")
    return NamedFile("--config", DEFAULT_PATH)


def read(file: NamedFile, environment: Mapping[str, str]) -> Configuration:
    """Read `server.toml` and the variables that override it.

    HOST, WORKERS, LOG_FORMAT, ACCESS_LOG, METRICS_PORT, METRICS_HOST, TLS_CERT, TLS_KEY, SELF_SIGNED, APPLICATION (with
    _RUNS, _PRELOAD and _FACTORY) and the variable that each listener names for its port. Raises ConfigurationError,
    which names the file or the variable at fault.
    """
    path = file.path
    read = tables.decode(path, file.read(LARGEST, "name a readable server.toml"))
    application = main_application(read.application, environment)
    listeners = tuple(
        _listener(table, application, path, environment)
        for table in read.listener
        if table.enabled or variables.text(environment, table.port_variable)
    )
    _check_listeners(path, listeners)
    check_preloaded((each.application for each in listeners), "preload none of them, or run a service for each")
    ports = {each.name: (each.port_setting, each.port) for each in listeners}
    places = addresses(read.metrics, path, environment, ports, _host)
    listeners = tuple(replace(each, metrics=place) for each, place in zip(listeners, places, strict=True))
    host = variables.text(environment, "HOST")
    host_setting = "HOST" if host else f"{shown(path)}: server.host"
    server = msgspec.structs.replace(
        read.server,
        host=_host(host_setting, host or read.server.host),
        workers=variables.integer(environment, "WORKERS", 1, MOST_WORKERS) or read.server.workers,
        log_format=_log_format(environment) or read.server.log_format,
        access_log=variables.truth(environment, "ACCESS_LOG", otherwise=read.server.access_log),
    )
    return Configuration(path, server, listeners, host_setting)


def _check_listeners(path: Path, listeners: tuple[Listener, ...]) -> None:
    if not listeners:
        raise ConfigurationError(f"{shown(path)}: no listener is enabled; enable one, or set the variable of its port")
    for index, listener in enumerate(listeners):
        for other in listeners[:index]:
            if listener.name == other.name:
                raise ConfigurationError(f"{shown(path)}: two listeners are named {cut(listener.name)}; rename one")
            if listener.port == other.port:
                raise ConfigurationError(
                    f"{listener.port_setting}={listener.port}: listener {cut(listener.name)} would share it"
                    f" with listener {cut(other.name)} ({other.port_setting}={other.port});"
                    f" give each a port of its own"
                )


def _log_format(environment: Mapping[str, str]) -> LogFormat | None:
    text = variables.text(environment, "LOG_FORMAT")
    known: dict[str | None, LogFormat | None] = {None: None, "text": "text", "json": "json"}
    if text in known:
        return known[text]
    raise ConfigurationError(f"LOG_FORMAT={shown(repr(text))} is neither text nor json; correct or unset it")


def _host(setting: str, text: str) -> str:
    remedy = "use 127.0.0.1 for this machine alone, 0.0.0.0 or :: for all"
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise ConfigurationError(f"{setting}={shown(repr(text))} is not an IP address; {remedy}") from error
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ConfigurationError(f"{setting}={shown(repr(text))} has a zone, which is not supported; {remedy}")
        address = address.ipv4_mapped or address
    if address.is_multicast:
        raise ConfigurationError(f"{setting}={text} is a multicast address, which TCP cannot use; {remedy}")
    return str(address)


def _listener(
    table: ListenerTable, application: ApplicationSettings, path: Path, environment: Mapping[str, str]
) -> Listener:
    prefix = f"listener {cut(table.name)}:"
    port = variables.integer(environment, table.port_variable, 1, 65535)
    if table.protocol == "h2c" and table.tls:
        raise ConfigurationError(
            f'{prefix} protocol = "h2c" is HTTP/2 in cleartext; remove its tls table, or the protocol'
        )
    if table.protocol == "auto" and not table.tls:
        raise ConfigurationError(
            f'{prefix} protocol = "auto" is decided by ALPN; add a tls table, or remove the protocol'
        )
    if table.websockets and table.protocol == "h2c":
        raise ConfigurationError(f"{prefix} websockets = true needs HTTP/1.1; remove it, or the protocol")
    if not table.name.isprintable():
        raise ConfigurationError(
            f"{shown(path)}: listener.name={shown(repr(table.name))} has characters that cannot be printed; leave them out"
        )
    own = table.application
    return Listener(
        name=table.name,
        port=port or table.port,
        port_variable=table.port_variable,
        port_setting=shown(table.port_variable) if port else f"{shown(path)}: port",
        protocol=table.protocol,
        application=of_table(f"{prefix} application.import", own) if own else application,
        tls=_tls(prefix, table.tls, path.parent, environment) if table.tls else None,
        websockets=table.websockets,
        trusted_proxies=tuple(network(prefix, each) for each in table.trusted_proxies),
    )


def _tls(prefix: str, table: TlsTable, folder: Path, environment: Mapping[str, str]) -> SelfSigned | PairFiles:
    """Decide which pair is served: files that are named or present, else one made for this run if that is asked for."""

    def file(variable: str, setting: str, default: str) -> NamedFile:
        remedy = "give the path of a file"
        if (named := environment.get(variable)) is not None:
            return NamedFile.of(f"{prefix} {variable}", named, f"{remedy}, or unset {variable}")
        return NamedFile.of(f"{prefix} {setting}", default and str(folder / default), remedy)

    def of_clients(setting: str, text: str | None) -> NamedFile | None:
        remedy = f"give the path of a file, or remove {setting}"
        return None if text is None else NamedFile.of(f"{prefix} {setting}", text and str(folder / text), remedy)

    pair = PairFiles(
        file("TLS_CERT", "tls.certificate", table.certificate),
        file("TLS_KEY", "tls.key", table.key),
        of_clients("client_authority", table.client_authority),
        of_clients("client_revocations", table.client_revocations),
    )
    if pair.client_revocations and not pair.client_authority:
        raise ConfigurationError(f"{pair.client_revocations} needs client_authority; add it, or remove the revocations")
    asked = variables.truth(environment, SELF_SIGNED_VARIABLE, otherwise=False)
    if "TLS_CERT" in environment or "TLS_KEY" in environment:
        return pair
    # A broken link, or a folder that may not be searched, is not "no pair": it is reported when it is read.
    present = [each for each in (pair.certificate, pair.key) if each.is_there()]
    missing = [each for each in (pair.certificate, pair.key) if each not in present]
    if present and missing:
        raise ConfigurationError(
            f"{prefix} {present[0].shown()} is there but {missing[0].shown()} is missing; add it"
            f"{', or remove the other' if asked else ''}"
        )
    if missing and pair.client_authority:
        raise ConfigurationError(
            f"{pair.client_authority} is for a pair that clients know, and there is none; set TLS_CERT and TLS_KEY"
        )
    if missing and not asked:
        raise ConfigurationError(
            f"{prefix} there is no pair: {missing[0].shown()} and {missing[1].shown()} are missing; put a certificate and"
            f" its key there (in a container, mount them), name others (TLS_CERT, TLS_KEY), or ask for a self-signed"
            f" pair that lasts as long as the run (--self-signed, {SELF_SIGNED_VARIABLE}=1)"
        )
    return pair if present else SelfSigned()

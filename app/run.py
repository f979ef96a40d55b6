"""From a configuration to a running service: what is checked before anything listens, and what then runs."""

import errno
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import msgspec
import setproctitle

from app import VERSION
from app.launcher import (
    child,
    descriptors,
    granian_server,
    hosts,
    loading,
    log,
    memory,
    metrics,
    preloading,
    signals,
    sockets,
    supervisor,
)
from app.launcher.asgi import Application
from app.launcher.reloading import Reload
from app.launcher.server_process import Endpoint, Work
from app.service import catalogue
from app.settings import certificate, config, start
from app.settings.application import ApplicationSettings
from app.settings.config import Configuration, Listener, PairFiles
from app.settings.errors import ConfigurationError, cut, shown
from app.settings.tables import Server


def versions() -> str:
    """Return the versions of this project, of Granian and of Python."""
    return f"{VERSION} (Granian {metadata.version('granian')}, Python {platform.python_version()})"


def preflight(
    configuration: Configuration, stack: ExitStack, *, is_check: bool
) -> tuple[Configuration, Sequence[Endpoint]]:
    """Find out whether all can be served: applications, pairs, limits, ports. Return the configuration within these limits.

    Nothing listens yet; what has to be given up afterwards is put on `stack`. A port that is taken is only noted if this
    `is_check`: the instance that runs has it. Raises ConfigurationError, or Stopped if a signal asks to stop
    meanwhile.
    """
    server = configuration.server
    _check_proc()
    datasets = {each.application: dataset_of(each.application) for each in configuration.listeners}  # before it is read
    applications = _applications(configuration, is_check=is_check)
    pairs = [_pair(each, server.host, stack) for each in configuration.listeners]
    server, lines = limited(configuration)
    for line in lines:
        log.warn(line)
    hosts.check(configuration.host_setting, server.host)
    if (first := configuration.listeners[0].metrics) is not None:
        hosts.check(first.host_setting, first.host)
    endpoints = []
    for listener, pair in zip(configuration.listeners, pairs, strict=True):
        group, bound = _bound(server, listener, stack, is_check=is_check)
        application = applications[listener.application]
        endpoints.append(Endpoint(server, listener, pair, application, group, bound, datasets[listener.application]))
        try_pair(endpoints[-1])
    return replace(configuration, server=server), endpoints


def limited(configuration: Configuration) -> tuple[Server, list[str]]:
    """Return the server table within this machine's limits, and lines about what they cut. Raises ConfigurationError."""
    connections, about_files = descriptors.connection_limit(configuration)
    growth, about_memory = memory.growth_limit(configuration)
    server = msgspec.structs.replace(configuration.server, backpressure=connections, worker_growth=growth)
    return server, [each for each in (about_files, about_memory) if each]


def dataset_of(application: ApplicationSettings) -> bytes | None:
    """Return a digest of the dataset that an application of this project serves; None for another application.

    Raises ConfigurationError if it cannot be read.
    """
    return catalogue.digest(start.taken().environment) if application.is_ours else None


def serve(
    configuration: Configuration,
    endpoints: Sequence[Endpoint],
    example: Callable[[Listener], str],
    reload: Reload,
) -> int:
    """Serve every endpoint until asked to stop; return the exit status.

    `example` returns a target of a listener to show the user, `reload` what is to be served after SIGHUP.
    """
    for each in endpoints:
        if isinstance(each.listener.tls, config.SelfSigned) and each.pair is not None:
            log.warn(
                f"listener {each.listener.name}: there is no pair, so a self-signed one was made for this run, as asked;"
                f" its authority's certificate is {each.pair.authority}",
                each.listener.name,
            )
    log.event(f"starting granian-json {versions()}: {sources(configuration)}")
    setproctitle.setproctitle(child.title("launcher"))
    work = Work(granian_server.serve, granian_server.why_rejected)
    return supervisor.run(configuration, endpoints, work, example, reload)


def sources(configuration: Configuration) -> str:
    """Return where what is served comes from, as a part of a line."""
    served = [f"{each.name} ({each.application.target})" for each in configuration.listeners]
    parts = [f"configuration {configuration.path}", f"listeners {', '.join(served)}"]
    ours = [each.application for each in configuration.listeners if each.application.is_ours]
    if ours:
        path = catalogue.source_of(start.taken().environment).path
        number = catalogue.counts.get(path) if any(each.preload for each in ours) else None  # else workers read it
        parts.append(f"dataset {path}" + (f" with {number} items" if number else ""))
    return "; ".join(parts)


def _check_proc() -> None:
    """Raise ConfigurationError if there is no /proc: server processes look there for their size and descriptors."""
    try:
        Path("/proc/self/statm").read_bytes()
    except OSError as error:
        raise ConfigurationError(f"/proc/self/statm cannot be read ({error.strerror}); mount /proc") from error


def _applications(configuration: Configuration, *, is_check: bool) -> dict[ApplicationSettings, Application | None]:
    """Import what is preloaded, and try the import of the others. Raises ConfigurationError, or Stopped.

    If this `is_check`, only ours are imported here: another may end its process, and a start has no time for two imports.
    """
    loaded: dict[ApplicationSettings, Application | None] = {}
    for listener in configuration.listeners:
        settings = listener.application
        if settings in loaded:
            continue
        if settings.preload and (settings.is_ours or not is_check):
            stopped = child.FAILED if is_check else child.STOPPED
            loaded[settings] = preloading.preload(settings, configuration.server.start_deadline, stopped)
            signals.block()  # again: it may have ignored SIGCHLD, say
        else:
            loading.check(settings, configuration.server.start_deadline)
            loaded[settings] = None
    return loaded


def _pair(listener: Listener, host: str, stack: ExitStack) -> certificate.Pair | None:
    """Load a listener's pair, or make one for this run; return None without TLS."""
    if listener.tls is None:
        return None
    if not isinstance(listener.tls, PairFiles):
        names = ["localhost", socket.gethostname(), "127.0.0.1", "::1", config.reachable(host)]
        return certificate.self_signed(names, _folder_for_authority(stack))
    pair = certificate.load(listener.tls)
    if pair.expired:
        log.warn(
            f"listener {listener.name}: {pair.origin} is valid from {pair.leaf.not_valid_before_utc:%Y-%m-%d}"
            f" to {pair.leaf.not_valid_after_utc:%Y-%m-%d}, not today; clients that verify will reject it",
            listener.name,
        )
    return pair


def _bound(
    server: Server, listener: Listener, stack: ExitStack, *, is_check: bool
) -> tuple[sockets.ReuseportGroup, Sequence[socket.socket]]:
    """Bind a listener's port, and that of its metrics; a port that is taken is only noted if this `is_check`."""
    group = sockets.ReuseportGroup(server, listener)
    of_metrics = metrics.group_of_metrics(server, listener)
    if of_metrics is not None and not is_check:
        group = metrics.GroupWithMetrics(server, listener, of_metrics)
    stack.callback(group.close)
    if not is_check:
        return group, group.bind(server.workers)
    _bind_or_note(group, server.workers)
    if of_metrics is not None:
        stack.callback(of_metrics.close)
        _bind_or_note(of_metrics, 1)
    return group, ()


def _bind_or_note(group: sockets.ReuseportGroup, number: int) -> None:
    """Bind as ReuseportGroup.bind does; if the port is taken say so."""
    try:
        group.bind(number)
    except ConfigurationError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
            raise
        log.warn(f"note: {error}; all is well if an instance of this service holds it")


def try_pair(endpoint: Endpoint) -> None:
    """Ask rustls for its opinion of a pair. Raises ConfigurationError if it rejects it, or cannot be asked.

    Raises Stopped if it cannot be asked, and a signal asks to stop.
    """
    try:
        reason = granian_server.why_rejected(endpoint)
    except OSError as error:
        raise loading.not_tried(f"listener {cut(endpoint.listener.name)}: its pair", error) from error
    if reason:
        raise ConfigurationError(reason)


def _folder_for_authority(stack: ExitStack) -> Path:
    try:
        folder = tempfile.mkdtemp(prefix="granian-json-")
    except OSError as error:
        raise ConfigurationError(
            f"TMPDIR={shown(os.environ.get('TMPDIR', '(unset)'))}: there is no folder for the self-signed pair's"
            f" authority ({shown(error.strerror)}); name a writable folder (in a container: --tmpfs /tmp), or set TLS_CERT and"
            f" TLS_KEY"
        ) from error
    stack.callback(shutil.rmtree, folder, ignore_errors=True)  # it may have become read-only
    return Path(folder)

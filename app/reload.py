"""What SIGHUP reloads: server.toml, the dataset, and the pairs that other settings name. Code is not reloaded."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec

from app import run
from app.launcher import loading, preloading
from app.launcher.asgi import Application
from app.launcher.reloading import Reloaded
from app.launcher.server_process import Endpoint
from app.settings import certificate
from app.settings.application import ApplicationSettings, check_preloaded
from app.settings.certificate import Pair
from app.settings.config import Configuration, Listener, PairFiles
from app.settings.errors import ConfigurationError, cut


def reload(read: Callable[[], Configuration], served: Sequence[Endpoint], is_tried: bool) -> Reloaded:  # noqa: FBT001
    """Return what is to be served instead of `served`, with the same ports; raises ConfigurationError.

    Of a listener with more than one endpoint in `served` it serves the last; a replacement that starts comes before.
    What takes long is left out if it `is_tried` already, by another process.
    """
    configuration = read()
    by_name = {each.listener.name: each for each in served}
    kept, left = _kept(configuration, by_name)
    if not kept:
        raise ConfigurationError(
            f"{configuration.path} has none of the listeners that are served ({', '.join(by_name)}); keep one, or restart"
        )
    now = (each.listener.application for each in served)  # any may be served on: a replacement may fail, or not
    check_preloaded((*preloading.imported, *now, *(each.application for each in kept)), "that needs a restart")
    if configuration.server.host != served[-1].server.host:
        left.append(f"{configuration.host_setting}={configuration.server.host} needs a restart")
    server = msgspec.structs.replace(configuration.server, host=served[-1].server.host)
    configuration = replace(configuration, server=server, listeners=tuple(kept))
    server, lines = run.limited(configuration)
    datasets = {each.application: run.dataset_of(each.application) for each in kept}
    applications = {(each.listener.application, each.dataset): each.application for each in served}
    endpoints = []
    for listener in kept:
        before = by_name[listener.name]
        key = listener.application, datasets[listener.application]
        if key not in applications:
            applications[key] = _application(listener.application, server.start_deadline, is_tried=is_tried)
        endpoint = replace(
            before,
            server=server,
            listener=listener,
            pair=_pair(listener, before),
            application=applications[key],
            dataset=key[1],
        )
        if not is_tried and endpoint.pair is not before.pair:
            run.try_pair(endpoint)
        if not endpoint.group.has_filters and not endpoint.serves_like(before):
            left.append(
                f"listener {cut(listener.name)} needs a restart: this system has no BPF filters for SO_REUSEPORT"
            )
            endpoint = before
        endpoints.append(endpoint)
    return Reloaded(replace(configuration, server=server), endpoints, lines + left, run.sources(configuration))


def _kept(configuration: Configuration, by_name: Mapping[str, Endpoint]) -> tuple[list[Listener], list[str]]:
    """Return the listeners that are served already, with their ports, and lines about what a restart would change."""
    kept, left = [], []
    for listener in configuration.listeners:
        if listener.name not in by_name:
            left.append(f"listener {cut(listener.name)} is new; it needs a restart")
            continue
        before = by_name[listener.name].listener
        if listener.port != before.port:
            setting = f"{listener.port_setting}={listener.port}"
            left.append(f"listener {cut(listener.name)} is served on port {before.port} on; {setting} needs a restart")
        if listener.metrics != before.metrics:
            wanted, now = (
                f"on port {at.port} of {at.host}" if at else "off" for at in (listener.metrics, before.metrics)
            )
            left.append(f"listener {cut(listener.name)}: its metrics are {now}; to have them {wanted} needs a restart")
        kept.append(replace(listener, port=before.port, port_setting=before.port_setting, metrics=before.metrics))
    names = {each.name for each in configuration.listeners}
    left += [f"listener {cut(each)} is gone; it is served on until a restart" for each in by_name if each not in names]
    return kept, left


def _pair(listener: Listener, before: Endpoint) -> Pair | None:
    """Return the pair of a listener: the one that is served, unless other files are named. Raises ConfigurationError."""
    if listener.tls == before.listener.tls:
        return before.pair
    if listener.tls is None:
        return None
    if not isinstance(listener.tls, PairFiles):
        raise ConfigurationError(
            f"listener {cut(listener.name)}: there is no pair, and one is made at a start alone; put it back, or restart"
        )
    pair = certificate.load(listener.tls)
    if pair.expired:
        raise ConfigurationError(f"{listener.tls.certificate} is not valid now; have it issued anew")
    return pair


def _application(settings: ApplicationSettings, seconds: int, *, is_tried: bool) -> Application | None:
    """Import another application, or one of ours with another dataset. Raises ConfigurationError."""
    if settings.is_ours:
        module, _, attribute = settings.target.partition(":")
        vars(importlib.import_module(module)).pop(attribute, None)  # it is built when it is asked for, in workers, too
    if not settings.preload:
        if not is_tried:
            loading.check(settings, seconds)
        return None
    return preloading.load_while_serving(settings, seconds) if is_tried else loading.load(settings)

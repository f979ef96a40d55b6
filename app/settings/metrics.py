"""Where the metrics of each listener are: a host, and a port for each, in a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.settings import variables
from app.settings.errors import ConfigurationError, cut, shown
from app.settings.tables import MetricsTable

PORT, HOST = "METRICS_PORT", "METRICS_HOST"
DEFAULT_HOST = "127.0.0.1"
LAST = 65535


@dataclass(frozen=True)
class Metrics:
    """An address for a listener's metrics; it is the same whatever has set it."""

    host: str
    host_setting: str = field(compare=False)
    """What has set the host, for errors."""
    port: int
    port_setting: str = field(compare=False)
    """What has set the port, for errors: the setting with its value, which is the port of the first listener."""


def addresses(
    table: MetricsTable | None,
    path: Path,
    environment: Mapping[str, str],
    listeners: Mapping[str, tuple[str, int]],
    host_of: Callable[[str, str], str],
) -> Sequence[Metrics | None]:
    """Return where the metrics of each listener are, in the order of `listeners`; None for each if they are off.

    They are off unless METRICS_PORT, or the `[metrics]` table of the server.toml at `path`, has the first port.
    `listeners` has the setting and the value of each one's port, by its name; `host_of` returns the address that a
    setting's text is. Raises ConfigurationError, also for a port above 65535, or one that a listener has.
    """
    named = variables.text(environment, HOST)
    host_setting = HOST if named or not table else f"{shown(path)}: metrics.host"
    host = host_of(host_setting, named or (table.host if table else DEFAULT_HOST))
    asked = variables.integer(environment, PORT, 1, LAST)
    first = asked or (table.port if table else None)
    if first is None:
        return [None] * len(listeners)
    setting = f"{PORT if asked else f'{shown(path)}: metrics.port'}={first}"
    if first + len(listeners) - 1 > LAST:
        raise ConfigurationError(
            f"{setting}: the metrics of {len(listeners)} listeners need as many ports from there on, and {LAST} is the"
            f" last; choose {LAST - len(listeners) + 1} or less"
        )
    taken = {port: (name, f"{its_setting}={port}") for name, (its_setting, port) in listeners.items()}
    found = []
    for port, name in enumerate(listeners, first):
        if port in taken:
            other, its = taken[port]
            raise ConfigurationError(
                f"{setting}: the metrics of listener {cut(name)} would have port {port}, which is that of listener"
                f" {shown(other)} ({its}); choose another from which {len(listeners)} ports are free"
            )
        found.append(Metrics(host, host_setting, port, setting))
    return found

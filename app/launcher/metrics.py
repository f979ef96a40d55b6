"""The sockets of a listener's metrics: one for each server process, in a group that shares a port as the listener's do."""

import socket
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from app.launcher.sockets import ReuseportGroup
from app.settings.config import Listener
from app.settings.tables import Server

BACKLOG = 128  # connections that may wait for the exporter: Granian's number


def group_of_metrics(server: Server, listener: Listener) -> ReuseportGroup | None:
    """Return the group of a listener's metrics, of which nothing is bound yet; None if they are off."""
    if listener.metrics is None:
        return None
    host, port, setting = listener.metrics.host, listener.metrics.port, listener.metrics.port_setting
    return ReuseportGroup(
        msgspec.structs.replace(server, host=host, backlog=BACKLOG),
        replace(listener, port=port, port_setting=f"{setting}: port"),
    )


class GroupWithMetrics(ReuseportGroup):
    """A listener's group, in which the sockets of each server process go together with one for its metrics.

    So whoever serves the listener's clients serves its metrics, too, while one server process replaces another.
    """

    def __init__(self, server: Server, listener: Listener, metrics: ReuseportGroup) -> None:
        super().__init__(server, listener)
        self.metrics = metrics
        self._beside: dict[socket.socket, list[socket.socket]] = {}

    def beside(self, sockets: Sequence[socket.socket]) -> list[socket.socket]:
        """Return the one for the metrics that goes together with `sockets`, of those that `bind` has returned."""
        return self._beside[sockets[0]]

    def bind(self, number: int) -> list[socket.socket]:
        """Bind as ReuseportGroup.bind does. Raises ConfigurationError if either port cannot be had."""
        beside = self.metrics.bind(1)
        try:
            sockets = super().bind(number)
        except BaseException:
            self.metrics.remove(beside)
            raise
        self._beside.update(dict.fromkeys(sockets, beside))
        return sockets

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Listen as ReuseportGroup.listen does. Raises ConfigurationError if either port was taken meanwhile."""
        self.metrics.listen(self.beside(sockets))
        super().listen(sockets)

    def spread(self, sockets: Sequence[socket.socket]) -> None:
        """Give new connections to `sockets`, and those for metrics to the one beside them. Raises OSError."""
        self.metrics.spread(self.beside(sockets))
        super().spread(sockets)

    def remove(self, sockets: Sequence[socket.socket]) -> None:
        """End members, and the one beside them, as ReuseportGroup.remove does."""
        super().remove(sockets)
        beside = [self._beside.pop(each, []) for each in sockets]
        self.metrics.remove(beside[0])

    def close(self) -> None:
        """Give up both ports, as far as this process holds them."""
        super().close()
        self.metrics.close()

    def is_held(self) -> bool:
        """Return whether a process listens on either port, once this one has given them up."""
        return super().is_held() or self.metrics.is_held()


def socket_beside(group: ReuseportGroup, sockets: Sequence[socket.socket]) -> socket.socket | None:
    """Return the socket for metrics that goes together with `sockets`, members of `group`; None if metrics are off."""
    return next(iter(group.beside(sockets)), None)

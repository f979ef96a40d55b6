"""What the launcher tells the container's health check: which listeners are to respond, and how each is asked."""

import os
from collections.abc import Iterable

from app.launcher import health
from app.launcher.log import warn
from app.launcher.probe import how_to_ask
from app.settings import config


class Listing:
    """The listeners that are to respond, for the container's health check: a file in memory, found by its name in /proc.

    Nobody else knows them all: variables, --config and a reload have their say, and there may be no place for a file.
    """

    def __init__(self) -> None:
        self._text = b""
        try:
            self._descriptor: int | None = os.memfd_create(health.LISTING)
        except OSError as error:
            self._descriptor = None
            warn(
                f"the container's health check will fail: there is no file for the list of the listeners ({error}); raise the limit on open files (ulimit -n)"
            )

    def write(self, listeners: Iterable[tuple[str, config.Listener]]) -> None:
        """List these hosts and listeners instead."""
        text = b"".join(
            b"%b %b %d %b\n"
            % (
                how_to_ask(each).encode(),
                config.reachable(host).encode(),
                each.port,
                each.name.encode("unicode_escape"),
            )
            for host, each in listeners
        )
        if text != self._text and self._descriptor is not None:
            try:
                os.pwrite(self._descriptor, text, 0)
                os.truncate(self._descriptor, len(text))
            except OSError as error:  # no memory, or a limit on the size of files (ulimit -f)
                warn(
                    f"the container's health check will fail: the list of the listeners cannot be written ({error}); raise the limit on the size of files (ulimit -f)"
                )
            self._text = text

    def close(self) -> None:
        """List nothing any more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

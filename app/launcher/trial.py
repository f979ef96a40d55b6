"""Work that is tried in a process of its own: it may fail, hang, or take its process with it."""

import os
import time
from collections.abc import Callable

import msgspec

from app.launcher.child import Child
from app.settings.errors import ConfigurationError


class Trial:
    """A process that does some work; `close` ends it, whether it is through or not."""

    def __init__(self, work: Callable[[], object], seconds: float) -> None:
        """Start it, with `seconds` to end in. Raises OSError."""
        self.deadline = time.monotonic() + seconds
        self._error = os.memfd_create("error")

        def attempt() -> None:
            try:
                work()
            except ConfigurationError as error:
                os.write(self._error, msgspec.json.encode((str(error), error.details)))

        try:
            self._child = Child(attempt)
        except BaseException:
            os.close(self._error)
            raise

    def exitcode(self) -> int | None:
        """Return its exit status, or minus the signal that ended it; None while it runs.

        Raises the ConfigurationError that the work has raised; TimeoutError if it has not ended in time.
        """
        if self._child.exitcode is None:
            if time.monotonic() > self.deadline:
                raise TimeoutError
            return None
        if error := os.pread(self._error, os.fstat(self._error).st_size, 0):
            raise ConfigurationError(*msgspec.json.decode(error, type=tuple[str, str]))
        return self._child.exitcode

    def close(self) -> None:
        """End it."""
        self._child.kill()
        os.close(self._error)

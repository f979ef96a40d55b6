"""Work that is tried in a process of its own: it may fail, hang, or take its process with it."""

import json
import os
import sys
import time
from collections.abc import Callable

import setproctitle

from app.launcher.child import Child, title
from app.settings.errors import ConfigurationError

TRIED = 87  # exit status of work that is through: an application may end its process with 0


class Trial:
    """A process that does some work; `close` ends it, whether it is through or not."""

    def __init__(self, work: Callable[[], object], seconds: float) -> None:
        """Start it, with `seconds` to end in. Raises OSError."""
        self.deadline = time.monotonic() + seconds
        self._error = os.memfd_create("error")  # no pipe: what the work starts would hold its other end

        def attempt() -> None:
            setproctitle.setproctitle(title("trial"))
            try:
                work()
            except ConfigurationError as error:
                with os.fdopen(self._error, "wb", closefd=False) as file:
                    file.write(json.dumps((str(error), error.details)).encode())
            sys.exit(TRIED)

        try:
            self._child = Child(attempt, leads_group=True)
        except BaseException:
            os.close(self._error)
            raise

    def exitcode(self) -> int | None:
        """Return TRIED, or the exit status or minus the signal by which its process ended before; None while it runs.

        Raises the ConfigurationError that the work has raised; TimeoutError if it has not ended in time.
        """
        if (code := self._child.exitcode) is None:
            if time.monotonic() > self.deadline:
                raise TimeoutError
            return None
        if error := os.pread(self._error, os.fstat(self._error).st_size, 0):
            raise ConfigurationError(*json.loads(error))
        return code

    def close(self) -> None:
        """End it with what it has started."""
        self._child.kill()
        os.close(self._error)

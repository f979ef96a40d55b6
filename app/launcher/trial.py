"""Work that is tried in a process of its own: it may fail, hang, or take its process with it."""

import json
import mmap
import time
from collections.abc import Callable

import setproctitle

from app.launcher.child import Child, title
from app.settings.errors import ConfigurationError

TRIED = 256  # no exit status: work that is through says so, as an application may end its process with any
LONGEST = 500_000  # characters of an error, and of its details, that are kept
RESULT_SIZE = 2 * 12 * LONGEST + 1_000  # bytes: JSON has twelve for some characters
STOPPED_ALONE = "a signal asked the process that tries it to stop; try it again"
NO_MEMORY = "there is not enough memory to try it; raise the limit (ulimit -v, -d, or the container's)"


_is_trial = False


class Stopped(Exception):  # noqa: N818 - no error: the launcher was asked to stop
    """A signal asked to stop while something was being tried."""


class Trial:
    """A process that does some work; `close` ends it, whether it is through or not."""

    def __init__(self, work: Callable[[], object], seconds: float) -> None:
        """Start it, with `seconds` to end in. Raises OSError."""
        self.deadline = time.monotonic() + seconds
        # No pipe, whose other end what the work starts would hold; no file, which may be limited to no size (ulimit -f).
        self._result = mmap.mmap(-1, RESULT_SIZE)

        def attempt() -> None:
            global _is_trial  # noqa: PLW0603 - of a process that has just been made
            _is_trial = True
            setproctitle.setproctitle(title("trial"))
            try:
                work()
                result = None
            except ConfigurationError as error:
                result = str(error)[:LONGEST], error.details[-LONGEST:]
            except MemoryError:
                result = NO_MEMORY, ""
            except Stopped:  # this process alone: the launcher ends it before it stops itself
                result = STOPPED_ALONE, ""
            written = json.dumps(result).encode()
            self._result[1 : len(written)] = written[1:]
            self._result[:1] = written[:1]  # last: without it nothing is there, if this process is killed meanwhile

        try:
            # A trial within another stays in its group, and ends with it, together with what it has started.
            self._child = Child(attempt, leads_group=not _is_trial)
        except BaseException:
            self._result.close()
            raise

    def exitcode(self) -> int | None:
        """Return TRIED, or the exit status or minus the signal by which its process ended before; None while it runs.

        Raises the ConfigurationError that the work has raised; TimeoutError if it has not ended in time.
        """
        if (code := self._child.exitcode) is None:
            if time.monotonic() > self.deadline:
                raise TimeoutError
            return None
        if not (written := self._result[: self._result.find(b"\0")]):
            return code
        if (error := json.loads(written)) is not None:
            raise ConfigurationError(*error)
        return TRIED

    def close(self) -> None:
        """End it with what it has started."""
        self._child.kill()
        self._result.close()

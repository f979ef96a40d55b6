"""An event for a server process's main loop, which is waited for by a clock and set by signal handlers."""

from collections.abc import Callable
from queue import Empty, SimpleQueue


class Interrupt:
    """An event that a signal handler may set in the thread that waits for it, and that may be waited for by the clock.

    threading.Event has a lock that is not reentrant: its `set` would wait for ever for the `wait` that it interrupts.
    SimpleQueue's `put` is made for that.
    """

    def __init__(self, on_timeout: Callable[[], None]) -> None:
        """Begin unset, and without a time-out."""
        self.timeout: float | None = None  # seconds that `wait` waits until it calls `on_timeout`, and returns
        self.on_timeout = on_timeout
        self._is_set = False
        self._puts: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Have `wait` return, until `clear`."""
        self._is_set = True
        self._puts.put(None)

    def clear(self) -> None:
        """Have `wait` wait for the next `set`."""
        self._is_set = False

    def wait(self) -> None:
        """Wait until it is set, or the time-out is over."""
        try:
            while not self._is_set:
                self._puts.get(timeout=self.timeout)
        except Empty:
            self.on_timeout()

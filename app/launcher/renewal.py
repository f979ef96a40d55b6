"""What a listener is to serve instead of what it serves: a pair that was replaced on disk, or settings of a reload."""

from collections.abc import Callable
from dataclasses import replace

from app.launcher.log import ListenerLog
from app.launcher.pair_watch import Expiry, PairWatch
from app.launcher.server_process import Endpoint
from app.settings.certificate import Pair
from app.settings.config import PairFiles

PAUSE = 1.0  # seconds between the end of a predecessor and the look at a pair that has waited for it


class Renewal:
    """The reasons for which a listener's server process is replaced."""

    _served: Endpoint
    """What is served; there is none before `served`."""

    def __init__(self, why_rejected: Callable[[Endpoint], str | None], reports: ListenerLog) -> None:
        """Watch nothing yet; `why_rejected` is that of `Work`."""
        self.why_rejected = why_rejected
        self.reports = reports
        self.watch: PairWatch | None = None
        self.expiry: Expiry | None = None
        self.is_reload = False  # whether it was a reload that asked for what is tried, or was served last
        self._reloaded: Endpoint | None = None
        self._waits = False
        self._not_before = 0.0  # when a reload may be served: a pair that has waited for room comes with it

    def served(self, endpoint: Endpoint) -> None:
        """Take `endpoint` as what is served; watch the files of its pair, if it has any, and how long it lasts."""
        self._served = endpoint
        if self.expiry is None or self.expiry.pair is not endpoint.pair:  # else its end may have been reported
            self.expiry = Expiry(endpoint.pair) if endpoint.pair is not None else None
        files, pair, interval = endpoint.listener.tls, endpoint.pair, endpoint.server.certificate_interval
        if not isinstance(files, PairFiles) or pair is None or not endpoint.group.has_filters:
            self.watch = None
            return
        if self.watch is None or (self.watch.files, self.watch.interval) != (files, interval):
            self.watch = PairWatch(files, pair, interval, self.reports, self._why_rejected)
        self.watch.served(pair)

    def _why_rejected(self, pair: Pair) -> str | None:
        """Ask for the opinion of a pair with what is served now: sockets that were served before are closed."""
        return self.why_rejected(replace(self._served, pair=pair))

    def next_event(self) -> float | None:
        """Return when there is something to look at (time.monotonic); None for never."""
        times = [each.next_look for each in (self.watch, self.expiry) if each is not None]
        return min((each for each in times if each is not None), default=None)

    def ask(self, now: float) -> None:
        """Look at the pair's files at once."""
        if self.watch is not None:
            self.watch.ask(now)

    def reload(self, endpoint: Endpoint) -> None:
        """Have `endpoint` served, with the pair that is then served if its files are the same, and no other reload's."""
        self._reloaded = endpoint

    def wanted(self, now: float, served: Endpoint, *, busy: bool) -> Endpoint | None:
        """Return what is to be served instead of `served` from now on; None if nothing is, or if there is no room yet.

        A pair that is being written while settings are reloaded is waited for: one replacement then serves both.
        """
        if self.expiry is not None and (line := self.expiry.look(now)):
            self.reports.warn(line)
        pair = self.watch.look(now) if self.watch is not None else None
        reloaded = self._reloaded
        if pair is None and (
            reloaded is None or now < self._not_before or (self.watch is not None and self.watch.is_settling)
        ):
            return None
        if busy:
            self._waits = True
            return None
        self._reloaded, wanted = None, reloaded or served
        has_same_files = wanted.listener.tls == served.listener.tls
        if has_same_files:
            wanted = replace(wanted, pair=served.pair)
        is_reload = not wanted.serves_like(served)
        if pair is None and not is_reload:  # another reload has undone this one meanwhile
            return None
        self.is_reload = is_reload
        return replace(wanted, pair=pair) if pair is not None and has_same_files else wanted

    def has_room(self, now: float) -> None:
        """Look again at a pair that has waited for the end of another process."""
        if self._waits:
            self._waits = False
            if self.watch is not None:
                self._not_before = now + PAUSE
                self.ask(self._not_before)

    def failed(self, endpoint: Endpoint, now: float) -> None:
        """Try the pair of `endpoint` later, if it is not the one that is served: its server process has failed."""
        if self.watch is not None and endpoint.pair is not None and endpoint.pair.served != self.watch.pair.served:
            self.watch.failed(endpoint.pair, now)

    def report(self, reason: str) -> None:
        """Say why what is wanted is not served."""
        if self.watch is None or self.is_reload:
            self.reports.warn(f"{reason}; what was served before the reload is served on")
        else:
            self.watch.report(reason)

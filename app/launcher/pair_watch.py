"""Whether a listener's pair, or which clients it is served to, has been replaced on disk."""

import datetime as dt
from collections.abc import Callable

from app.launcher.log import ListenerLog
from app.settings import certificate
from app.settings.certificate import Content, Pair
from app.settings.config import PairFiles
from app.settings.errors import ConfigurationError

STEADY = 1.0  # seconds without a change until the files are taken as written to their end
LONGEST_PAUSE = 300.0  # seconds until a pair whose server process failed is tried again: twice as long each time
ENOUGH = 9  # failures, after which the pause is the longest
RESTLESS = 15.0  # seconds of changes after which they are reported

EXPIRES = (30, 14, 7, 1, 0)  # days before the end of a pair at which it is reported
HOUR = 3600.0  # seconds between looks at the clock, which may be set


class Expiry:
    """The end of a pair that is served: reported when so many days are left, each once, and at the start."""

    def __init__(self, pair: Pair) -> None:
        """Look first at once."""
        self.pair = pair
        self.next_look = 0.0
        self._reported: int | None = None

    def look(self, now: float, clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> str | None:
        """Return a line if it is time for one; `now` is time.monotonic's."""
        if now < self.next_look:
            return None
        end = self.pair.leaf.not_valid_after_utc
        left = (end - clock()).total_seconds()
        stage = min((each for each in EXPIRES if left <= each * 86400), default=None)
        pauses = [left - each * 86400 for each in EXPIRES if left > each * 86400]
        self.next_look = now + min([HOUR, *(each + 0.01 for each in pauses)])
        if stage is None or stage == self._reported:
            return None
        self._reported = stage
        if stage == 0:
            return f"{self.pair.origin} has expired ({end:%Y-%m-%d %H:%M} UTC); replace it, and it is served at once"
        return f"{self.pair.origin} expires in {left / 86400:.1f} days ({end:%Y-%m-%d %H:%M} UTC); replace it before"


class PairWatch:
    """The files of a pair: looked at every `interval` seconds, or when asked to."""

    def __init__(
        self,
        files: PairFiles,
        pair: Pair,
        interval: int,
        reports: ListenerLog,
        why_rejected: Callable[[Pair], str | None],
    ) -> None:
        """Watch the files that hold `pair` now; an `interval` of 0 never looks unasked, but for a pair that has `failed`.

        `why_rejected` returns why a pair that passes every check cannot be served, and may raise OSError.
        """
        self.files = files
        self.pair = pair
        self.interval = interval
        self.reports = reports
        self.why_rejected = why_rejected
        self.next_look: float | None = 0.0  # at once: the files may have changed since they were loaded
        self._seen: object = pair.content  # what the files held at the last look, or why they could not be read
        self._since = 0.0
        self._changing_since: float | None = None
        self._reported: str | None = None
        self._failed: Content | None = None  # what the files held when a server process failed with it
        self._tried: tuple[Content, str | None] | None = None  # what was tried last, and what is wrong with it
        self._failures = 0
        self._not_before = 0.0

    def ask(self, now: float) -> None:
        """Have the next `look` look, and take a pair that has failed, too."""
        self.next_look = self._not_before = now
        self._tried = None

    def look(self, now: float) -> Pair | None:
        """Return the pair that is to be served instead, if it is time to look and there is one.

        It is returned at each look until `served` is called with it. What is invalid is reported, once.
        """
        if self.next_look is None or now < self.next_look:
            return None
        self.next_look = now + self.interval if self.interval else None
        content: Content | str
        try:
            content = certificate.read(self.files)
        except ConfigurationError as error:
            content = str(error)
        if content == self.pair.content:
            self._seen, self._changing_since = content, None
            self._no_longer_wrong()
            return None
        if content != self._seen or now - self._since < STEADY:
            self._wait(content, now)
            return None
        self._changing_since = None
        if content == self._failed and now < self._not_before:
            self.next_look = min(self.next_look or self._not_before, self._not_before)
            return None
        return self._check(content)

    @property
    def is_settling(self) -> bool:
        """Whether the files have changed, and may still be written to."""
        return self._changing_since is not None and self._since - self._changing_since < RESTLESS

    def served(self, pair: Pair) -> None:
        """Take `pair` as the one that is served."""
        self.pair = pair
        self._reported = None

    def failed(self, pair: Pair, now: float) -> None:
        """Return `pair` later, and ever later: a server process that was to serve it has failed."""
        self._failures = self._failures + 1 if pair.content == self._failed else 0
        self._failed = pair.content
        self._not_before = now + min(LONGEST_PAUSE, 2.0 ** min(self._failures, ENOUGH))
        self.next_look = min(self.next_look or self._not_before, self._not_before)

    def _wait(self, content: object, now: float) -> None:
        """Look again when the files may have been steady for long enough: half of a pair is not to be served."""
        if content != self._seen:
            self._seen, self._since = content, now
        if self._changing_since is None:
            self._changing_since = now
        elif now - self._changing_since > RESTLESS:
            self.report(f"{self._names()} keep changing; write them once")
        self.next_look = self._since + STEADY

    def _names(self) -> str:
        of_clients = [each for each in (self.files.client_authority, self.files.client_revocations) if each]
        return " and ".join(map(str, (self.files.certificate, self.files.key, *of_clients)))

    def _check(self, content: Content | str) -> Pair | None:
        if isinstance(content, str):
            self.report(content)
            return None
        try:
            pair = certificate.check(self.files, content)
        except ConfigurationError as error:
            self.report(str(error))
            return None
        if pair.served == self.pair.served:
            self.pair = pair  # written otherwise, but the same
            self._no_longer_wrong()
            return None
        if pair.expired:
            self.report(
                f"{self.files.certificate} is valid from {pair.leaf.not_valid_before_utc:%Y-%m-%d %H:%M} to"
                f" {pair.leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, which is not now; have it issued anew"
            )
            return None
        if self._tried is None or self._tried[0] != content:
            self._tried = content, self._try(pair)
        if reason := self._tried[1]:
            self.report(reason)
            return None
        return pair

    def _try(self, pair: Pair) -> str | None:
        try:
            return self.why_rejected(pair)
        except OSError:  # no process or descriptor for a trial now: the replacement's start is one
            return None

    def report(self, reason: str) -> None:
        """Say why the pair on disk is not served; once, until there is another reason, or it is served."""
        if reason != self._reported:
            self.reports.warn(f"{reason}; the pair from before is served on")
            self._reported = reason

    def _no_longer_wrong(self) -> None:
        """Say that what was reported is over, without a renewal: the files hold what is served."""
        if self._reported is not None:
            self.reports.event(f"{self._names()} hold the pair that is served again")
            self._reported = None

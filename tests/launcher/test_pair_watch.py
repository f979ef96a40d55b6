"""When changed files count as a new pair, by a clock that the test moves."""

from pathlib import Path

import pytest
import trustme

from app.launcher.pair_watch import LONGEST_PAUSE, RESTLESS, STEADY, PairWatch
from app.settings import certificate
from app.settings.certificate import Pair
from app.settings.config import PairFiles
from app.settings.files import NamedFile
from tests.support.certificates import issue, leaf_of
from tests.support.log import KeptLog

INTERVAL = 5


class Watched:
    """A pair on disk, what is said about it, and the watch."""

    def __init__(self, authority: trustme.CA, folder: Path, interval: int = INTERVAL) -> None:
        self.authority = authority
        self.folder = issue(authority, folder)
        self.certificate = folder / "server.crt"
        self.files = PairFiles(NamedFile("TLS_CERT", self.certificate), NamedFile("TLS_KEY", folder / "server.key"))
        self.log = KeptLog()
        self.said, self.events = self.log.warnings, self.log.events
        self.tried = 0
        self.outcome: str | OSError | None = None  # of each trial
        pair = certificate.load(self.files)
        self.watch = PairWatch(self.files, pair, interval, self.log, self.why_rejected)
        assert self.watch.look(0.0) is None  # begins to watch

    def why_rejected(self, _: Pair) -> str | None:
        self.tried += 1
        if isinstance(self.outcome, OSError):
            raise self.outcome
        return self.outcome

    def look(self, now: float) -> bool:
        """Look, and return whether the pair on disk is to be served."""
        pair = self.watch.look(now)
        assert pair is None or pair.content == certificate.read(self.files)
        return pair is not None


@pytest.fixture
def watched(authority: trustme.CA, tmp_path: Path) -> Watched:
    return Watched(authority, tmp_path / "certs")


def test_a_changed_pair_is_taken_when_it_has_been_steady(watched: Watched) -> None:
    assert not watched.look(INTERVAL)
    issue(watched.authority, watched.folder)
    assert not watched.look(INTERVAL + 1)  # not time to look
    now = 2.0 * INTERVAL
    assert not watched.look(now)
    assert watched.watch.next_look == now + STEADY
    assert not watched.look(now + STEADY / 2)
    assert watched.look(now + STEADY)
    assert watched.look(now + STEADY + INTERVAL)  # again, until it is served
    watched.watch.served(certificate.load(watched.files))
    assert not watched.look(now + STEADY + 2 * INTERVAL)
    assert watched.said == []


def test_a_chain_that_follows_its_leaf_is_never_served_without(watched: Watched) -> None:
    issue(watched.authority, watched.folder)
    leaf, chain = watched.certificate.read_bytes(), watched.authority.cert_pem.bytes()
    now = float(INTERVAL)
    assert not watched.look(now)
    watched.certificate.write_bytes(leaf + chain)
    assert not watched.look(now + STEADY)  # steady as the leaf alone was not: it counts from here
    pair = watched.watch.look(now + 2 * STEADY)
    assert pair is not None
    assert pair.chain_pem.count(b"BEGIN") == 2
    assert watched.said == []


def test_a_pair_that_keeps_changing_is_reported_once_and_not_served(watched: Watched) -> None:
    now = float(INTERVAL)
    while now < INTERVAL + 2 * RESTLESS:
        issue(watched.authority, watched.folder)
        assert not watched.look(now)
        assert bool(watched.said) == (now - INTERVAL > RESTLESS), now
        now += STEADY
    (line,) = watched.said
    assert "keep changing; write them once; the pair from before is served on" in line
    assert watched.look(now + STEADY)  # once they have stopped


def test_an_interval_of_0_looks_when_asked_to_and_until_the_files_are_steady(
    authority: trustme.CA, tmp_path: Path
) -> None:
    watched = Watched(authority, tmp_path / "certs", interval=0)
    issue(authority, watched.folder)
    assert not any(watched.look(now) for now in (1, 1000))
    watched.watch.ask(1000)
    assert not watched.look(1000)
    assert watched.watch.next_look == 1000 + STEADY
    watched.watch.ask(1000 + STEADY / 2)
    assert not watched.look(1000 + STEADY / 2)
    assert watched.look(1000 + STEADY)


def test_an_interval_of_0_tries_a_pair_again_whose_server_process_failed(authority: trustme.CA, tmp_path: Path) -> None:
    watched = Watched(authority, tmp_path / "certs", interval=0)
    issue(authority, watched.folder)
    watched.watch.ask(1)
    assert not watched.look(1)
    assert watched.look(1 + STEADY)
    watched.watch.failed(certificate.load(watched.files), 2)
    assert watched.watch.next_look == 3
    assert watched.look(3)


def test_an_interval_of_0_tries_a_pair_again_though_it_was_asked_for_while_it_was_tried(
    authority: trustme.CA, tmp_path: Path
) -> None:
    watched = Watched(authority, tmp_path / "certs", interval=0)
    issue(authority, watched.folder)
    watched.watch.ask(1.0)
    watched.look(1.0)
    assert watched.look(1.0 + STEADY)
    pair = certificate.load(watched.files)
    for now in (3.0, 10.0, 20.0):
        watched.watch.ask(now)  # SIGHUP, or room after the end of the one that failed
        watched.watch.failed(pair, now)
        looks = 0
        while not watched.look(watched.watch.next_look or 0.0):
            looks += 1
            assert watched.watch.next_look is not None
            assert looks < 3


def test_the_files_as_they_were_are_served_on(watched: Watched) -> None:
    before = [path.read_bytes() for path in (watched.certificate, watched.folder / "server.key")]
    served = leaf_of(watched.folder)
    issue(watched.authority, watched.folder)
    assert not watched.look(INTERVAL)
    for path, content in zip((watched.certificate, watched.folder / "server.key"), before, strict=True):
        path.write_bytes(content)
    assert not watched.look(INTERVAL + STEADY)
    assert not watched.look(INTERVAL + 3 * STEADY)
    assert leaf_of(watched.folder) == served
    assert watched.said == []


def test_a_file_that_is_missing_for_a_moment_is_not_reported(watched: Watched) -> None:
    content = watched.certificate.read_bytes()
    watched.certificate.unlink()
    assert not watched.look(INTERVAL)
    watched.certificate.write_bytes(content)
    assert not watched.look(INTERVAL + STEADY)
    assert watched.said == []
    watched.certificate.unlink()
    for now in (3 * INTERVAL, 3 * INTERVAL + STEADY, 5 * INTERVAL):
        assert not watched.look(now)
    (line,) = watched.said
    assert "cannot be read (No such file or directory)" in line
    assert watched.events == []
    watched.certificate.write_bytes(content)
    for now in (7 * INTERVAL, 8 * INTERVAL):
        assert not watched.look(now)
    (line,) = watched.events
    assert line.endswith("server.key hold the pair that is served again")


def test_a_pair_whose_server_process_failed_is_taken_later_and_ever_later(watched: Watched) -> None:
    issue(watched.authority, watched.folder)
    now = float(INTERVAL)
    assert not watched.look(now)
    now += STEADY
    assert watched.look(now)
    pair = certificate.load(watched.files)
    pauses = []
    before = watched.watch.pair
    for _ in range(12):
        watched.watch.served(pair)  # for a moment: its server process failed after it had replaced its predecessor,
        watched.watch.served(before)  # which serves on
        watched.watch.failed(pair, now)
        begun = now
        while not watched.look(now := now + 1.0):
            pass
        pauses.append(now - begun)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE, abs=INTERVAL)
    for _ in range(1100):  # for days
        watched.watch.failed(pair, now)
    watched.watch.ask(now + 1.0)  # SIGHUP
    assert watched.look(now + 1.0)


def test_a_pair_that_a_trial_rejects_is_tried_again_when_it_changes_or_when_asked_to(watched: Watched) -> None:
    watched.outcome = "of no use"
    issue(watched.authority, watched.folder)
    now = float(INTERVAL)
    for _ in range(5):
        assert not watched.look(now)
        now += INTERVAL
    assert watched.tried == 1
    watched.watch.ask(now)  # SIGHUP
    assert not watched.look(now)
    assert watched.tried == 2
    assert watched.said == ["of no use; the pair from before is served on"]
    watched.outcome = None
    issue(watched.authority, watched.folder)
    assert not watched.look(now + INTERVAL)
    assert watched.look(now + 2 * INTERVAL)
    assert watched.look(now + 3 * INTERVAL)  # again, until it is served
    assert watched.tried == 3


def test_a_pair_that_cannot_be_tried_is_taken(watched: Watched) -> None:
    watched.outcome = BlockingIOError()  # no process for it
    issue(watched.authority, watched.folder)
    assert not watched.look(INTERVAL)
    assert watched.look(INTERVAL + STEADY)

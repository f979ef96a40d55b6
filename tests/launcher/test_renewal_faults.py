"""Renewals that cannot succeed: the service lives, and serves the pair from before."""

import os
import signal
import ssl
import time
from pathlib import Path

import pytest
import trustme

from tests.support.certificates import issue, leaf_of, served_leaf
from tests.support.configuration import configured, with_certificate_interval
from tests.support.faults import WITHOUT_FILTERS, process_limit
from tests.support.processes import ROOT, children, freeze, is_running, open_files, wait_until
from tests.support.service import Launch, Service


class Renewing:
    """A service that looks at its pair when it gets SIGHUP, and is not announced any other way."""

    def __init__(self, launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, folder: Path) -> None:
        self.launch, self.authority, self.trust, self.folder = launch, authority, trust, folder
        self.certs = issue(authority, folder / "certs")

    def start(
        self, text: str = with_certificate_interval(0), wrapper: tuple[str, ...] = (), **variables: str
    ) -> Service:
        self.service: Service = self.launch(configured(self.folder, text), wrapper=wrapper, **variables)
        return self.service.ready()

    def renew(self) -> bytes:
        """Write a new pair and say so; return its leaf."""
        issue(self.authority, self.certs)
        self.service.signal(signal.SIGHUP)
        return leaf_of(self.certs)

    def serves(self, leaf: bytes) -> bool:
        return served_leaf(self.service, self.trust) == leaf

    def said(self, text: str) -> bool:
        return text in self.service.errors.read_text()

    def replacement(self) -> tuple[int, int, int]:
        """Wait for a replacement of two workers; return its process and them, the first of which is stopped.

        So nobody can have asked both for a response yet.
        """
        before = set(self.service.server_processes)
        found: list[int] = []

        def forked() -> bool:
            found[:] = [each for each in self.service.server_processes if each not in before and children(each)]
            return bool(found)

        wait_until(forked, "a replacement")
        (process,) = found
        first = children(process)[0]
        freeze(first)
        wait_until(lambda: len(children(process)) == 2, "its second worker")
        self.service.remember()
        return process, first, max(children(process))


@pytest.fixture
def renewing(launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path) -> Renewing:
    return Renewing(launch, authority, trust, tmp_path)


def test_a_renewal_that_cannot_fork_is_reported_once_and_made_when_it_can(renewing: Renewing) -> None:
    with process_limit() as limit:
        service = renewing.start(with_certificate_interval(1), wrapper=limit.wrapper, WORKERS="1")
        old = leaf_of(renewing.certs)
        limit.forbid()
        new = renewing.renew()
        wait_until(lambda: renewing.said("listener json-tls cannot be renewed"), "a line about it")
        for _ in range(3):
            service.signal(signal.SIGHUP)
            assert renewing.serves(old)
        limit.lift()
        wait_until(lambda: renewing.serves(new), "the new leaf")
        assert service.errors.read_text().count("\n") == 1, service.errors.read_text()
        service.stop()


def test_a_worker_that_cannot_be_forked_is_started_when_it_can(launch: Launch, pair: dict[str, str]) -> None:
    with process_limit() as limit:
        service = launch(wrapper=limit.wrapper, **pair).ready()
        server_process = service.server_processes[1]
        victim = service.workers(server_process)[0]
        limit.forbid()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: "cannot be started" in service.errors.read_text(), "a line about it")
        limit.lift()
        wait_until(lambda: service.replaced(server_process, victim), "a new worker")
        assert service.process.poll() is None
        assert service.errors.read_text().count("it is tried again until it can") == 1
        service.responding().stop()


def test_a_replacement_with_a_frozen_worker_never_serves(renewing: Renewing) -> None:
    text = with_certificate_interval(0).replace("start_deadline = 30", "start_deadline = 3")
    renewing.start(text)
    old = leaf_of(renewing.certs)
    renewing.renew()
    replacement, first, second = renewing.replacement()
    freeze(second)
    os.kill(first, signal.SIGCONT)
    while not renewing.said("did not respond within start_deadline=3 s ("):
        assert renewing.serves(old)
    wait_until(lambda: not is_running(replacement), "the replacement's end")
    assert all(renewing.serves(old) for _ in range(20))
    renewing.service.stop()


def test_a_replacement_with_a_worker_in_a_crash_loop_never_serves(renewing: Renewing) -> None:
    renewing.start()
    old = leaf_of(renewing.certs)
    renewing.renew()
    replacement, first, _ = renewing.replacement()
    victims = {first}
    while not renewing.said("before it responded; the pair from before is served on"):
        for worker in children(replacement):
            if worker not in victims:
                victims.add(worker)
                renewing.service.descendants.add(worker)
                os.kill(worker, signal.SIGKILL)
        assert renewing.serves(old)
    assert all(renewing.serves(old) for _ in range(20))
    renewing.service.stop()


def test_a_replacement_that_dies_while_its_predecessor_settles_is_replaced_by_it(renewing: Renewing) -> None:
    service = renewing.start()
    old = leaf_of(renewing.certs)
    new = renewing.renew()
    replacement, first, _ = renewing.replacement()
    os.kill(first, signal.SIGCONT)
    wait_until(lambda: "renewed: " in service.output.read_text(), "the renewal")
    assert renewing.serves(new)
    os.kill(replacement, signal.SIGKILL)
    wait_until(lambda: renewing.said("after it had replaced another, which serves on with the pair"), "a line about it")
    assert all(renewing.serves(old) for _ in range(20))
    service.signal(signal.SIGHUP)  # the new pair is on disk still
    wait_until(lambda: renewing.serves(new), "the new leaf")
    service.stop()


def test_a_working_directory_that_is_removed_hinders_no_renewal(renewing: Renewing) -> None:
    gone = renewing.folder / "gone"
    gone.mkdir()
    wrapper = ("sh", "-c", f'cd "{gone}" && exec "$@"', "sh")
    service = renewing.start(wrapper=wrapper, WORKERS="1", PYTHONPATH=str(ROOT))
    gone.rmdir()
    new = renewing.renew()
    wait_until(lambda: renewing.serves(new), "the new leaf")
    service.stop()
    assert service.errors.read_text() == ""


def test_without_filters_the_pair_is_not_renewed_and_nothing_is_started(renewing: Renewing) -> None:
    service = renewing.start(with_certificate_interval(1), wrapper=WITHOUT_FILTERS)
    launcher, old = service.process.pid, leaf_of(renewing.certs)
    processes, files = service.server_processes, open_files(launcher)
    renewing.renew()
    end = time.monotonic() + 2.5  # no condition to wait for: nothing may happen; with filters it would after 1 s
    while time.monotonic() < end:
        service.signal(signal.SIGHUP)
        assert renewing.serves(old)
        assert service.server_processes == processes
    assert open_files(launcher) == files
    (line,) = service.errors.read_text().splitlines()
    assert "this system has no BPF filters for SO_REUSEPORT, so its pair is not renewed" in line
    service.stop()

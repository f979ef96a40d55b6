"""Renewals that cannot succeed: the service lives, and serves the pair from before."""

import os
import signal
import socket
import time
from contextlib import ExitStack

from bench import oracle
from tests.support.certificates import leaf_of
from tests.support.configuration import with_certificate_interval
from tests.support.http1 import REQUEST, read_response
from tests.support.processes import ROOT, children, freeze, have_been_read, is_running, open_files, send, wait_until
from tests.support.renewals import Renewing
from tests.support.wrappers import WITHOUT_FILTERS, process_limit


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
        wait_until(lambda: renewing.serves(new), "the new leaf", 20)  # each failure doubles the pause
        # A worker may respond before its server process has made the thread that watches it.
        others = ("reload: ", "worker-1 cannot be started (can't start new thread)")
        lines = [each for each in service.errors.read_text().splitlines() if not each.startswith(others)]
        assert len(lines) == 1, lines
        service.stop()


def test_a_renewal_that_could_not_fork_is_made_though_nobody_asks_again(renewing: Renewing) -> None:
    with process_limit() as limit:
        service = renewing.start(wrapper=limit.wrapper, WORKERS="1")  # looks at SIGHUP alone
        limit.forbid()
        new = renewing.renew()
        wait_until(lambda: renewing.said("listener json-tls cannot be renewed"), "a line about it")
        limit.lift()
        wait_until(lambda: renewing.serves(new), "the new leaf", 20)
        service.stop()


def test_a_replacement_with_a_frozen_worker_never_serves(renewing: Renewing) -> None:
    text = with_certificate_interval(0).replace("start_deadline = 30", "start_deadline = 3")
    renewing.start(text, to_hold=True)
    old = leaf_of(renewing.certs)
    _, replacement, first, _ = renewing.renew_held()
    freeze(first)
    renewing.go_on()
    while not renewing.said("did not respond within start_deadline=3 s ("):
        assert renewing.serves(old)
    wait_until(lambda: not is_running(replacement), "the replacement's end")
    assert all(renewing.serves(old) for _ in range(20))
    renewing.service.stop()


def test_a_replacement_with_a_worker_in_a_crash_loop_never_serves(renewing: Renewing) -> None:
    renewing.start(to_hold=True)
    old = leaf_of(renewing.certs)
    _, replacement, first, _ = renewing.renew_held()
    victims = {first}
    while not renewing.said("before it responded; the pair from before is served on"):
        for worker in children(replacement):
            if worker not in victims:
                victims.add(worker)
                renewing.service.descendants.add(worker)
                send(worker, signal.SIGKILL)
        assert renewing.serves(old)
    assert all(renewing.serves(old) for _ in range(20))
    renewing.service.stop()


def test_a_replacement_that_dies_while_its_predecessor_settles_is_replaced_by_it(renewing: Renewing) -> None:
    service = renewing.start(to_hold=True)
    old = leaf_of(renewing.certs)
    new, replacement, _, _ = renewing.renew_held()
    renewing.go_on()
    wait_until(lambda: "renewed: " in service.errors.path.read_text(), "the renewal")
    assert renewing.serves(new)
    os.kill(replacement, signal.SIGKILL)
    wait_until(lambda: renewing.said("after it had replaced another, which serves on with the pair"), "a line about it")
    assert all(renewing.serves(old) for _ in range(20))
    service.signal(signal.SIGHUP)  # the new pair is on disk still
    wait_until(lambda: renewing.serves(new), "the new leaf")
    service.stop()


def test_a_listener_that_ends_costs_the_others_no_request_while_they_are_renewed(renewing: Renewing) -> None:
    service = renewing.start(to_hold=True)
    with ExitStack() as stack:
        halves = []
        for _ in range(20):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", service.tls_port), timeout=10))
            halves.append(stack.enter_context(renewing.trust.wrap_socket(plain, server_hostname="localhost")))
            halves[-1].sendall(REQUEST[:-2])
        wait_until(lambda: have_been_read(*halves), "the requests' first halves")
        plaintext = service.server_process_of("json")
        renewing.renew_held()
        os.kill(plaintext, signal.SIGKILL)
        wait_until(lambda: renewing.said("stopping the others"), "a line about it")
        for each in halves:
            each.sendall(REQUEST[-2:])
            assert read_response(each) == oracle.body(1, 2)
    assert service.wait() == 1
    service.gone()


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
    wait_until(lambda: open_files(launcher) == files, "the end of what tried the settings")
    (line,) = service.errors.read_text().splitlines()
    assert "this system has no BPF filters for SO_REUSEPORT, so its pair is not renewed" in line
    service.stop()

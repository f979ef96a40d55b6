"""Signals at any moment of a start, launchers that start at the same moment, and what a stop prints."""

import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from tests.support.processes import has_signal, wait_until
from tests.support.service import START_DEADLINE, STOP_DEADLINE, Launch, Service
from tests.support.wrappers import STOP_BLOCKED

pytestmark = pytest.mark.xdist_group("load")  # one at a time: each loads the machine

START = 1.5  # seconds: somewhat more than a start takes
AT_ONCE = 4


def test_a_stop_at_any_moment_of_the_start_is_exit_0(launch: Launch, pair: dict[str, str]) -> None:
    """20 moments, some of them before the first instruction of Python; signals are blocked from before it."""

    def start() -> Service:
        service = launch(wrapper=STOP_BLOCKED, **pair)
        # At once: while the launcher waits for a signal, the kernel shows it as not blocked.
        wait_until(lambda: has_signal(service.process.pid, signal.SIGTERM, "SigBlk"), "the wrapper's work")
        return service

    for turn in range(5):
        services = [start() for _ in range(AT_ONCE)]
        begun = time.monotonic()
        first = 0.0 if turn == 0 else random.uniform(0, START / AT_ONCE)
        for index, service in enumerate(services):
            time.sleep(max(0.0, begun + first + index * START / AT_ONCE - time.monotonic()))
            service.remember()
            service.signal(signal.SIGTERM if (turn + index) % 2 else signal.SIGINT)
        for service in services:  # the first may have been asked before Python was there: it starts, and ends
            assert service.wait(START_DEADLINE if turn == 0 else STOP_DEADLINE) == 0, service.report()
            service.gone()
            assert service.errors.read_text() == ""


def test_a_second_signal_names_only_what_it_kills(launch: Launch, pair: dict[str, str]) -> None:
    """Only json-tls is there when it comes."""
    service = launch(**pair)
    wait_until(lambda: len(service.server_processes) > 0, "the first server process")
    wait_until(lambda: bool(service.workers(service.server_process_of("json-tls"))), "its first worker")
    service.remember()
    for _ in range(2):
        service.signal(signal.SIGTERM)
    assert service.wait() == 0, service.report()
    service.gone()
    assert all("json-tls is killed" in line for line in service.errors.read_text().splitlines())


@pytest.mark.server
def test_of_launchers_that_start_at_the_same_moment_one_serves_and_its_stop_prints_nothing(
    tmp_path: Path, pair: dict[str, str]
) -> None:
    """Six times, side by side two by two; the other exits with 2, and six idle stops of what serves are silent."""
    for turn in range(3):
        with ExitStack() as stack:
            rivals: list[list[Service]] = []
            for match in range(2):
                port, tls_port = map(str, free_ports(2))
                two = []
                for index in range(2):
                    folder = tmp_path / f"{turn}-{match}-{index}"
                    folder.mkdir()
                    two.append(Service(folder, **(pair | {"PORT": port, "TLS_PORT": tls_port})))
                    stack.callback(two[-1].destroy)
                rivals.append(two)
            for two in rivals:
                wait_until(lambda two=two: any(each.process.poll() is not None for each in two), "one's end", 30)  # type: ignore[misc]
                (loser,) = [each for each in two if each.process.poll() is not None]
                (winner,) = [each for each in two if each is not loser]
                assert loser.process.returncode == 2, loser.report()
                assert "cannot be bound on 127.0.0.1 (Address already in use)" in loser.errors.read_text()
                winner.ready().stop()
                assert winner.errors.read_text() == ""

"""Stops: by signals, at any time, with requests in flight; exit status 0, and nothing is left."""

import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from bench import oracle
from tests.support.configuration import SERVER_TOML, configured
from tests.support.http1 import read_response
from tests.support.ports import is_refused
from tests.support.processes import freeze, has_signal, have_been_read, wait_until
from tests.support.service import Launch, Service


@contextmanager
def under_way(service: Service) -> Iterator[None]:
    """Have half a request at the plaintext listener, which a drain waits for."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(b"GET /json/1?m=9 HTTP/1.1\r\nhost: local")
        wait_until(lambda: have_been_read(connection), "half a request")
        yield


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_exit_0_and_leaves_nothing(launch: Launch, pair: dict[str, str], number: signal.Signals) -> None:
    service = launch(**pair).ready()
    with socket.create_connection(("127.0.0.1", service.port)):  # one that never speaks
        service.signal(number)
        assert service.wait() == 0, service.report()
        service.gone()
    assert service.errors.read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_many_signals_are_exit_0(launch: Launch, pair: dict[str, str], number: signal.Signals) -> None:
    service = launch(**pair).ready()

    def ended() -> bool:
        service.signal(number)
        return service.process.poll() is not None

    wait_until(ended, "the end")
    assert service.wait() == 0, service.report()
    assert "Traceback" not in service.errors.read_text()
    service.gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_anything_is_started_is_exit_0(
    launch: Launch, pair: dict[str, str], number: signal.Signals
) -> None:
    service = launch(**pair)

    wait_until(lambda: has_signal(service.process.pid, number, "SigBlk"), "the first line of the launcher")
    service.signal(number)
    assert service.wait() == 0, service.report()
    assert service.errors.read_text() == ""
    service.gone()


def test_a_stop_while_it_starts_is_exit_0(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(**pair)
    wait_until(lambda: bool(service.server_processes), "the first server process")
    service.remember()
    service.signal(signal.SIGTERM)
    assert service.wait() == 0, service.report()
    service.gone()


@pytest.mark.parametrize("listener", ["json", "json-tls"])
def test_requests_in_flight_get_their_responses(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext, listener: str
) -> None:
    service = launch(**pair).ready()
    port = service.port_of(listener)
    with ExitStack() as stack:
        connections = []
        for number in range(50):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            if listener == "json-tls":
                connection = stack.enter_context(trust.wrap_socket(connection, server_hostname="localhost"))
            connection.sendall(b"GET /json/%d?m=9 HTTP/1.1\r\nhost: local" % number)
            connections.append(connection)
        wait_until(lambda: have_been_read(*connections), "the requests' first halves")
        service.signal(signal.SIGTERM)
        wait_until(
            lambda: is_refused(service.port) and is_refused(service.tls_port),
            "no more connections accepted on either port",
        )
        for connection in connections:
            connection.sendall(b"host\r\n\r\n")
        for number, connection in enumerate(connections):
            assert read_response(connection) == oracle.body(number, 9)
            assert connection.recv(1) == b""
    assert service.wait() == 0, service.report()
    service.gone()


def test_sigusr1_does_not_kill_the_launcher(launch: Launch) -> None:
    service = launch().ready()
    service.signal(signal.SIGUSR1)
    assert httpx.get(f"{service.url}/json/5?m=3", trust_env=False).content == oracle.body(5, 3)
    service.stop()


def test_a_second_signal_ends_it_at_once(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(**pair).ready()
    with under_way(service):  # so that no drain comes to an end
        service.signal(signal.SIGTERM)
        wait_until(lambda: is_refused(service.port) and is_refused(service.tls_port), "the drain")
        service.signal(signal.SIGTERM)
        assert service.wait(1.5) == 0
    service.gone()
    assert "is killed with its workers: a second signal asked to stop" in service.errors.read_text()


def test_a_server_process_that_does_not_end_is_killed_at_the_deadline(
    launch: Launch, pair: dict[str, str], tmp_path: Path
) -> None:
    text = SERVER_TOML.replace("stop_deadline = 3", "stop_deadline = 1")
    service = launch(configured(tmp_path, text), **pair).ready()
    server_process = service.server_process_of("json")
    with under_way(service):
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
    service.gone()
    said = f"server process {server_process} is killed with its workers: it had not ended after stop_deadline=1 s"
    assert said in service.errors.read_text()


def test_what_was_stopped_by_hand_is_drained_like_all_else(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(**pair).ready()
    freeze(service.server_process_of("json-tls"), service.workers(service.server_process_of("json"))[0])
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    service.gone()
    assert service.errors.read_text() == ""

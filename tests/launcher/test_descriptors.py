"""More clients than a worker may open files."""

import errno
import os
import re
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from app.launcher.descriptors import STARVED, WORKER_DESCRIPTORS, connection_limit, end_when_starved_or_left
from app.settings import config
from app.settings.errors import ConfigurationError
from bench import oracle
from tests.support.http1 import exchange, get_on_new_connection
from tests.support.processes import is_running, open_connections, open_files, ticks, wait_until
from tests.support.service import Launch, Service

FILES = 300  # the limit on open files of the service here
ROOM = FILES - WORKER_DESCRIPTORS  # connections that a worker then keeps


@pytest.fixture
def few_files(launch: Launch, pair: dict[str, str]) -> Service:
    """A service of one worker for each listener that may not open many files."""
    service = launch(WORKERS="1", **pair)
    # Python is still starting; the launcher reads its limits much later.
    resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
    service.ready()
    assert f"the hard limit is {FILES}: each worker keeps {ROOM} connections" in service.errors.read_text()
    return service


def worker_of(service: Service, listener: str) -> int:
    (worker,) = service.workers(service.server_process_of(listener))
    return worker


def idle_files(service: Service, listener: str) -> int:
    """Return how many files a listener's worker has open once the connection that the launcher tried it with is closed."""
    wait_until(lambda: open_connections(service.port_of(listener)) == 0, "the end of the launcher's connection")
    return open_files(worker_of(service, listener))


@pytest.mark.parametrize("listener", ["json", "json-tls"])
def test_more_clients_than_files_wait_and_are_served_when_others_leave(
    few_files: Service, trust: ssl.SSLContext, listener: str
) -> None:
    service = few_files
    port = service.port_of(listener)
    worker = worker_of(service, listener)
    idle = idle_files(service, listener)

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=10)

    def secure(connection: socket.socket) -> socket.socket:
        if listener == "json":
            return connection
        return trust.wrap_socket(connection, server_hostname="localhost")

    with ExitStack() as stack:
        served = [stack.enter_context(secure(connect())) for _ in range(ROOM)]
        for connection in served:
            exchange(connection)
        waiting = [stack.enter_context(connect()) for _ in range(20)]
        assert open_files(worker) == idle + ROOM
        before = ticks(worker)
        time.sleep(1)  # in which it must not spin
        assert ticks(worker) - before < 30
        for connection in served:
            exchange(connection)
        for connection in served[: len(waiting)]:
            connection.close()
        for connection in waiting:
            exchange(stack.enter_context(secure(connection)))
    wait_until(lambda: open_files(worker) == idle, "none of the clients' files")
    service.stop()
    assert service.errors.read_text().count("\n") == 1


@pytest.mark.usefixtures("many_files")
def test_plaintext_clients_far_beyond_the_files_leave_nothing(few_files: Service) -> None:
    service, worker = few_files, worker_of(few_files, "json")
    idle = idle_files(service, "json")
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10)) for _ in range(1000)
        ]
        for connection in connections[: ROOM // 2]:
            exchange(connection)
        assert open_files(worker) == idle + ROOM
    wait_until(lambda: open_files(worker) == idle, "none of the clients' files")
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        exchange(connection)
    service.stop()


@pytest.fixture
def exhausted(few_files: Service, trust: ssl.SSLContext) -> Iterator[tuple[Service, socket.socket, ExitStack]]:
    """A service whose TLS worker has no file left, for clients without a handshake, and a connection from before them."""
    with ExitStack() as served, ExitStack() as stack:
        plain = socket.create_connection(("127.0.0.1", few_files.tls_port), timeout=10)
        before = served.enter_context(trust.wrap_socket(plain, server_hostname="localhost"))
        exchange(before)
        for _ in range(FILES + 100):
            stack.enter_context(socket.create_connection(("127.0.0.1", few_files.tls_port), timeout=10))
        wait_until(lambda: open_files(worker_of(few_files, "json-tls")) == FILES, "no file left")
        yield few_files, before, stack


def test_stalled_handshakes_that_take_all_files_spare_older_connections_and_the_other_listener(
    exhausted: tuple[Service, socket.socket, ExitStack],
) -> None:
    service, before, _ = exhausted
    for _ in range(20):
        exchange(before)
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as plain:
            exchange(plain)
    service.stop()
    # Such a worker takes no signal any more (docs/limits.md): it is killed, or ends by itself a moment before that.
    _, *said = service.errors.read_text().splitlines()
    ends = (
        r"server process \d+ is killed with its workers: it had not|listener json-tls: a worker had no free descriptor"
    )
    assert said
    assert all(re.match(ends, line) for line in said), said


def test_a_worker_with_all_files_held_by_stalled_handshakes_is_replaced(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext
) -> None:
    attacked = launch(WORKERS="1", **pair).ready()
    (worker,) = attacked.workers(attacked.server_process_of("json-tls"))
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (80, 80))
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", attacked.tls_port), timeout=20))
        wait_until(lambda: not is_running(worker), "the worker's end", 40)
    assert get_on_new_connection(attacked, trust, 20) == get_on_new_connection(attacked, None, 20) == oracle.body(3, 2)
    assert "listener json-tls: a worker had no free descriptor for" in attacked.errors.read_text()
    attacked.stop()


@pytest.fixture
def idle_workers(launch: Launch, pair: dict[str, str]) -> Callable[[int], set[int]]:
    """Start a service of so many workers, stop it, and return how many files its workers had open."""

    def count(workers: int) -> set[int]:
        service = launch(WORKERS=str(workers), **pair).ready()
        assert get_on_new_connection(service, None, 10) == oracle.body(3, 2)
        wait_until(
            lambda: open_connections(service.port) + open_connections(service.tls_port) == 0, "no connection to either"
        )
        found = {open_files(worker) for each in service.all_workers() for worker in each}
        service.stop()
        return found

    return count


@pytest.mark.xdist_group("load")
def test_a_worker_has_as_many_files_open_as_one_among_sixteen(idle_workers: Callable[[int], set[int]]) -> None:
    alone, among = idle_workers(1), idle_workers(16)
    assert max(among) <= max(alone)
    assert max(alone) <= WORKER_DESCRIPTORS


def test_a_worker_that_replaces_another_keeps_nothing_of_it_open(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext
) -> None:
    service = launch(WORKERS="1", **pair).ready()
    server_process = service.server_process_of("json-tls")
    wait_until(lambda: open_connections(service.tls_port) == 0, "the end of the launcher's connection")
    before = open_files(worker_of(service, "json-tls"))
    for _ in range(2):  # the second replaces a replacement
        victim = worker_of(service, "json-tls")
        os.kill(victim, signal.SIGKILL)
        wait_until(partial(service.replaced, server_process, victim), "another worker")
        assert get_on_new_connection(service, trust, 20) == oracle.body(3, 2)
        wait_until(lambda: open_connections(service.tls_port) == 0, "the end of that connection")
        assert idle_files(service, "json-tls") <= before + 1  # without a look at them it is two for each
    service.stop()


@pytest.mark.parametrize("lacking", [errno.ENOMEM, errno.ENFILE])
def test_what_a_new_worker_would_lack_too_does_not_count_as_want_of_a_descriptor(
    monkeypatch: pytest.MonkeyPatch, lacking: int
) -> None:
    """Memory, or files of the whole system: the watch goes on."""
    errors = [errno.EMFILE, *[lacking] * STARVED, *[errno.EMFILE] * STARVED]

    def eventfd(_: int) -> int:
        raise OSError(errors.pop(0), "none")

    monkeypatch.setattr(os, "eventfd", eventfd)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(SystemExit):
        end_when_starved_or_left("test", os.getppid())
    assert errors == []


def test_there_is_room_for_all_listeners_to_be_reloaded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = config.read(config.path_of(None, {}), {"SELF_SIGNED": "1", "WORKERS": "200", "H2C_PORT": "8082"})
    assert len(configuration.listeners) == 3
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * 3 * 200, 2 * 3 * 200))
    with pytest.raises(ConfigurationError, match="WORKERS=200: "):
        connection_limit(configuration)

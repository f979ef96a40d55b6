"""Granian's metrics of each listener, on the ports that METRICS_PORT begins."""

import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from app.launcher.descriptors import needed_by_worker
from app.launcher.metrics import GroupWithMetrics, group_of_metrics
from app.settings import config
from app.settings.errors import ConfigurationError
from app.settings.files import NamedFile
from bench import oracle
from tests.support.configuration import SERVER_TOML, configured
from tests.support.http1 import exchange, get_on_new_connection
from tests.support.metrics import Samples, metrics_url, reported, scrape, total
from tests.support.ports import free_port, free_row, is_free, is_refused
from tests.support.processes import ROOT, have_been_read, is_running, open_files, wait_until
from tests.support.renewals import Renewing
from tests.support.service import Launch, Service

LISTENERS = ("json-tls", "json")
REQUEST = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def metered(launch: Launch, pair: dict[str, str]) -> Service:
    """A service of two workers for each listener, with metrics."""
    return launch(METRICS_PORT=str(free_row(2)), **pair).ready()


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_each_listener_tells_its_own_requests_and_connections(metered: Service, trust: ssl.SSLContext) -> None:
    """Besides those of the launcher, which has asked each of its two workers once."""
    with socket.create_connection(("127.0.0.1", metered.port), timeout=5) as connection:
        for _ in range(4):
            exchange(connection)
        assert get_on_new_connection(metered, trust, 5) == oracle.body(3, 2)
        plain = reported(metrics_url(metered, "json"), "granian_requests_handled", 2 + 4)
        assert total(plain, "granian_connections_active") == 1
        assert total(plain, "granian_connections_handled") == 2 + 1
    over_tls = reported(metrics_url(metered, "json-tls"), "granian_requests_handled", 2 + 1)
    assert total(over_tls, "granian_connections_active") == 0
    for each in (plain, over_tls):
        assert each["granian_workers_spawns"] == {"": 2}
        assert set(each["granian_worker_lifetime"]) == {"1", "2"}
    reported(metrics_url(metered, "json"), "granian_connections_active", 0)
    metered.stop()
    assert metered.errors.read_text() == ""


def test_they_are_on_loopback_alone_unless_a_host_is_named(launch: Launch) -> None:
    first = free_row(2)
    service = launch(METRICS_PORT=str(first), METRICS_HOST="127.0.0.2", HOST="127.0.0.1").ready()
    assert metrics_url(service, "json") == f"http://127.0.0.2:{first + 1}/metrics"
    assert scrape(metrics_url(service, "json"))["granian_workers_spawns"] == {"": 2}
    assert is_free(first)  # on 127.0.0.1
    service.stop()


def test_without_a_port_there_are_no_threads_for_them(service: Service, launch: Launch, pair: dict[str, str]) -> None:
    """A server process has its own and one that watches each worker; with metrics one more of each kind."""
    assert "metrics" not in service.output.read_text()
    assert [threads(each) for each in service.server_processes] == [1 + 2] * 2
    metered = launch(METRICS_PORT=str(free_row(2)), **pair).ready()
    wait_until(lambda: [threads(each) for each in metered.server_processes] == [2 * (1 + 2)] * 2, "theirs")
    metered.stop()


def test_a_port_that_is_taken_is_exit_2(launch: Launch, pair: dict[str, str]) -> None:
    first = free_row(2)
    with socket.create_server(("127.0.0.1", first + 1)):
        service = launch(METRICS_PORT=str(first), **pair)
        assert service.wait(30) == 2
    said = (
        f"listener json: METRICS_PORT={first}: port={first + 1} cannot be bound on 127.0.0.1 (Address already in use)"
    )
    assert f"configuration: {said}; stop what holds it, or choose another port or address" in service.errors.read_text()


class Scraper:
    """Scrapes of one address, each on a connection of its own, one after the other."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.samples: list[Samples] = []
        self.failures: list[str] = []
        self.ending = threading.Event()

    def scrape_until_the_end(self) -> None:
        while not self.ending.wait(0.05):
            try:
                self.samples.append(scrape(self.url))
            except (httpx.HTTPError, AssertionError) as error:
                self.failures.append(repr(error))


@contextmanager
def scraping(url: str) -> Iterator[Scraper]:
    scraper = Scraper(url)
    thread = threading.Thread(target=scraper.scrape_until_the_end)
    thread.start()
    try:
        yield scraper
    finally:
        scraper.ending.set()
        thread.join()


@pytest.mark.long
def test_the_process_that_serves_tells_its_metrics_while_a_pair_is_renewed(renewing: Renewing) -> None:
    """No scrape fails until the predecessor has ended; once the replacement has responded, nobody else does."""
    service = renewing.start(METRICS_PORT=str(free_row(2)))
    predecessor = service.server_process_of("json-tls")
    url = metrics_url(service, "json-tls")
    for _ in range(20):
        assert get_on_new_connection(service, renewing.trust, 5) == oracle.body(3, 2)
    reported(url, "granian_requests_handled", 2 + 20)
    with scraping(url) as scraper:
        new = renewing.renew()
        wait_until(lambda: renewing.serves(new), "the new leaf")
        service.remember()
        wait_until(lambda: not is_running(predecessor), "the end of the predecessor", 30)
        last = len(scraper.samples)
        wait_until(lambda: len(scraper.samples) > last + 20, "more scrapes")
    assert scraper.failures == []
    counts = [total(each, "granian_requests_handled") for each in scraper.samples]
    assert set(counts[: counts.index(0)]) == {22}
    assert 22 not in counts[counts.index(0) :]
    assert scraper.samples[-1]["granian_workers_spawns"] == {"": 2}
    service.stop()


def test_a_predecessor_that_serves_on_tells_its_metrics_again(renewing: Renewing) -> None:
    service = renewing.start(to_hold=True, METRICS_PORT=str(free_row(2)))
    url = metrics_url(service, "json-tls")
    before = reported(url, "granian_requests_handled", 2)
    _, replacement, _, _ = renewing.renew_held()
    assert total(scrape(url), "granian_requests_handled") == 2
    renewing.go_on()
    wait_until(lambda: "renewed: " in service.report(), "the renewal")
    assert total(scrape(url), "granian_requests_handled") == 0  # nothing has been reported yet
    os.kill(replacement, signal.SIGKILL)
    wait_until(lambda: renewing.said("after it had replaced another, which serves on with the pair"), "a line about it")
    lifetimes = [max(each["granian_worker_lifetime"].values()) for each in (before, scrape(url))]
    assert lifetimes == sorted(lifetimes)
    service.stop()


def test_metrics_go_on_when_workers_die(metered: Service) -> None:
    """Scrapes go on meanwhile, and a worker that replaces another holds nothing of them."""
    url, process = metrics_url(metered, "json"), metered.server_process_of("json")
    reported(url, "granian_requests_handled", 2)
    with httpx.Client(base_url=url, trust_env=False) as kept, scraping(url) as scraper:
        for number in range(1, 4):
            assert kept.get("").status_code == 200
            victim = metered.workers(process)[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: metered.replaced(process, victim), "another worker", 20)  # type: ignore[misc]
            reported(url, "granian_workers_respawns_for_err", number)
            for worker in metered.workers(process):
                assert get_on_new_connection(metered, None, 5) == oracle.body(3, 2)
                ports = {each.laddr.port for each in psutil.Process(worker).net_connections("inet") if each.laddr}
                assert ports <= {metered.port}
    assert scraper.failures == []
    assert total(scrape(url), "granian_workers_spawns") == 2 + 3
    wait_until(lambda: set(scrape(url)["granian_worker_lifetime"]) == {"1", "2"}, "a report of each worker", 15)
    metered.stop()


def test_scrapers_keep_no_stop_from_ending(metered: Service) -> None:
    """One that has sent nothing, half a request, or a whole one on a connection that it keeps."""
    port = int(metrics_url(metered, "json").rpartition(":")[2].partition("/")[0])
    connections = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(3)]
    connections[1].sendall(REQUEST[:-2])
    connections[2].sendall(REQUEST)
    assert connections[2].recv(100).startswith(b"HTTP/1.1 200")
    began = time.monotonic()
    metered.stop()
    assert time.monotonic() - began < 3  # stop_deadline, until which nothing had to be waited for
    assert metered.errors.read_text() == ""
    for each in connections:
        each.close()


def test_metrics_are_told_while_the_service_drains_and_scrapes_at_the_end_print_nothing(
    launch: Launch, tmp_path: Path, pair: dict[str, str]
) -> None:
    text = SERVER_TOML.replace("stop_deadline = 3", "stop_deadline = 30")
    service = launch(configured(tmp_path, text), METRICS_PORT=str(free_row(2)), **pair).ready()
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=10) as client,
        scraping(metrics_url(service, "json")) as scraper,
    ):
        client.sendall(REQUEST[:-2])
        wait_until(lambda: have_been_read(client), "half a request")
        service.signal(signal.SIGTERM)
        wait_until(lambda: is_refused(service.port), "the drain")
        told = len(scraper.samples)
        wait_until(lambda: len(scraper.samples) > told + 3, "scrapes after that")
        client.sendall(REQUEST[-2:])
        assert client.recv(100).startswith(b"HTTP/1.1 404")
        assert service.wait(30) == 0
    service.gone()
    assert service.errors.read_text() == ""


@pytest.mark.xdist_group("load")
def test_many_workers_keep_within_the_descriptors_that_are_reserved(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(METRICS_PORT=str(free_row(2)), WORKERS="16", **pair).ready()
    process = service.server_process_of("json")
    reported(metrics_url(service, "json"), "granian_requests_handled", 16)
    assert open_files(process) <= 9 * 16 + 48
    victim = service.workers(process)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: service.replaced(process, victim), "another worker", 20)
    reported(metrics_url(service, "json"), "granian_workers_respawns_for_err", 1)
    assert max(open_files(each) for each in service.workers(process)) <= needed_by_worker(16, metered=True)
    service.stop()


OPENED_AT_FORKS = """
import os, select, socket
from tests.support.applications import respond

opened = []

def reopen():
    before = opened[:]
    opened[:] = open(os.devnull), socket.socket(socket.AF_INET, socket.SOCK_DGRAM), select.epoll()
    for each in before:
        each.close()

reopen()
os.register_at_fork(after_in_parent=reopen, after_in_child=reopen)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    names = [os.readlink(f"/proc/self/fd/{each.fileno()}").partition(":")[0] for each in opened]
    await respond(send, " ".join(names).encode())
"""

CLOSED_FIRST = OPENED_AT_FORKS.replace(
    """
reopen()
os.register_at_fork(after_in_parent=reopen, after_in_child=reopen)
""",
    """
launcher = os.getpid()

def open_late():
    if os.getpid() != launcher and not opened:
        reopen()

def reopen_first():  # what is opened in a worker has the numbers that its server process has for its own
    if os.getppid() != launcher:
        while opened:
            opened.pop().close()
        reopen()

os.register_at_fork(after_in_parent=open_late, after_in_child=reopen_first)
""",
)


@pytest.mark.parametrize("application", [OPENED_AT_FORKS, CLOSED_FIRST], ids=["closed last", "closed first"])
def test_what_a_preloaded_application_opens_at_a_fork_is_left_open(
    launch: Launch, tmp_path: Path, application: str
) -> None:
    """Clients of databases and of monitoring connect anew there; gRPC waits by epoll."""
    (tmp_path / "reopening.py").write_text(application)
    variables = {"APPLICATION": "reopening:app", "APPLICATION_PRELOAD": "true", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    service = launch(configured(tmp_path), METRICS_PORT=str(free_row(2)), WORKERS="3", **variables).ready()
    server_process = service.server_process_of("json")
    for _ in range(2):
        assert {httpx.get(service.url, trust_env=False).text for _ in range(20)} == {f"{os.devnull} socket anon_inode"}
        victim = service.workers(server_process)[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(partial(service.replaced, server_process, victim), "another worker")
    service.stop()


def test_metrics_that_are_switched_on_off_or_moved_need_a_restart(launch: Launch, tmp_path: Path) -> None:
    first = free_row(4)
    table = f"[metrics]\nport = {first}\n"
    service = launch(configured(tmp_path, SERVER_TOML + table)).ready()
    now = f"its metrics are on port {first} of 127.0.0.1; to have them"
    for changed, said in (
        (table.replace(f"{first}", f"{first + 2}"), f"on port {first + 2} of 127.0.0.1"),
        ("", "off"),
    ):
        configured(tmp_path, SERVER_TOML + changed)
        service.signal(signal.SIGHUP)
        line = f"reload: listener json-tls: {now} {said} needs a restart"
        wait_until(lambda line=line: line in service.report(), line, 20)  # type: ignore[misc]
        wait_until(
            lambda: "reload: nothing that can be reloaded has changed" in service.report(), "the end of the reload", 20
        )
        assert scrape(metrics_url(service, "json-tls"))["granian_workers_spawns"] == {"": 2}
    service.stop()


def test_a_port_that_cannot_be_bound_leaves_no_socket_of_the_other() -> None:
    file = NamedFile("test", ROOT / "server.toml")
    environment = {"SELF_SIGNED": "1", "PORT": str(free_port()), "METRICS_PORT": str(free_row(2))}
    read = config.read(file, environment)
    server, listener = msgspec.structs.replace(read.server, host="127.0.0.1"), read.listeners[-1]
    metrics = group_of_metrics(server, listener)
    assert metrics is not None
    group = GroupWithMetrics(server, listener, metrics)
    for port in (listener.port, metrics.listener.port):
        with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigurationError, match="cannot be bound"):
            group.bind(2)
        assert group.held == metrics.held == []
    sockets = group.bind(2)
    assert (len(group.held), len(metrics.held)) == (2, 1)
    group.listen(sockets)
    group.remove(sockets)
    assert group.held == metrics.held == []

"""What a client gets of a response whose connection ends in a drain, though it sends something meanwhile."""

import asyncio
import itertools
import json
import math
import os
import re
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Self

import httpx
import pytest
import trustme
from hyperframe.frame import WindowUpdateFrame

from app.launcher import lingering
from app.launcher.connections import copy_of
from app.launcher.descriptors import WORKER_DESCRIPTORS
from app.launcher.draining import CLOSE_NOTICE, Draining
from app.launcher.lingering import Connection, Lingering
from app.launcher.web_sockets import WebSockets
from bench import oracle
from tests.support.configuration import SERVER_TOML, configured
from tests.support.http1 import exchange
from tests.support.http2 import Client
from tests.support.ports import free_port, is_refused
from tests.support.processes import ROOT, open_connections, open_files, wait_until
from tests.support.service import Launch

ITEMS = 10_000
WINDOW = 65_535
FIN_WAIT = {"04", "05"}  # RFC 9293: FIN was sent, by shutdown(2) or close(2); whether it was acknowledged


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset of so many items that a response to all of them does not fit into a client's buffers."""
    items = json.loads((ROOT / "app/service/dataset.json").read_text())
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps([{**items[number % len(items)], "id": number + 1} for number in range(ITEMS)]))
    return path


def connected(port: int) -> socket.socket:
    """Connect with a small receive buffer."""
    connection = socket.socket()
    connection.settimeout(10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    connection.connect(("127.0.0.1", port))
    return connection


def is_ended(connection: socket.socket) -> bool:
    """Whether the server has ended its side, by /proc/net/tcp."""
    ends = [f"{each[1]:04X}" for each in (connection.getpeername(), connection.getsockname())]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any([local[-4:], remote[-4:]] == ends and state in FIN_WAIT for _, local, remote, state, *_ in lines)


def read_all(client: Client, stream: int, size: float = math.inf) -> None:
    """Read a response's body, up to `size` bytes at least, and grant a window for what is read."""
    granted = len(client.bodies.get(stream, b""))
    while len(client.bodies.get(stream, b"")) < size and stream not in client.whole and not client.closed:
        client.receive()
        if (read := len(client.bodies.get(stream, b""))) > granted:
            with suppress(ConnectionError):  # it was reset: then something is missing
                client.send(*(WindowUpdateFrame(each, window_increment=read - granted) for each in (0, stream)))
            granted = read


@pytest.mark.parametrize("listener", ["json-h2c", "json-tls"])
def test_a_stop_cuts_no_response_over_http2(
    launch: Launch, pair: dict[str, str], authority: trustme.CA, tmp_path: Path, dataset: Path, listener: str
) -> None:
    text = SERVER_TOML.replace("stop_deadline = 3", "stop_deadline = 30")
    text = text.replace('name = "json-tls"', 'name = "json-tls"\nprotocol = "auto"')
    service = launch(configured(tmp_path, text), DATASET_PATH=str(dataset), H2C_PORT=str(free_port()), **pair).ready()
    connection = connected(service.port_of(listener))
    if listener == "json-tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        context.set_alpn_protocols(["h2"])
        connection = context.wrap_socket(connection, server_hostname="localhost")
    body = oracle.body(ITEMS, 2, dataset)
    with closing(Client(connection, WINDOW)) as client:
        stream = client.request(f"/json/{ITEMS}?m=2")
        read_all(client, stream, 200_000)
        service.signal(signal.SIGTERM)
        wait_until(lambda: is_refused(service.port_of(listener)), "the drain")
        read_all(client, stream, len(body) - 60_000)  # a window of it: the rest is sent without another
        while not is_ended(client.socket) and stream not in client.whole:
            client.receive()  # a little, as one that takes nothing is not waited for
        read_all(client, stream)
        assert client.bodies[stream] == body
        assert stream in client.whole
    assert service.wait() == 0, service.report()
    assert service.errors.read_text() == ""
    service.gone()


def test_a_response_with_a_close_notice_is_whole_for_a_client_that_pipelines(
    launch: Launch, pair: dict[str, str], dataset: Path
) -> None:
    service = launch(DATASET_PATH=str(dataset), WORKERS="1", **pair).ready()
    with connected(service.port) as connection:
        exchange(connection)
        server_process = service.server_process_of("json")
        (worker,) = service.workers(server_process)
        files = open_files(worker)
        os.kill(server_process, CLOSE_NOTICE)
        wait_until(lambda: open_files(worker) > files, "a copy of the connection")
        wait_until(lambda: httpx.get(service.url, trust_env=False).headers.get("connection") == "close", "the notice")
        request = f"GET /json/{ITEMS}?m=2 HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        connection.sendall(request)
        body = oracle.body(ITEMS, 2, dataset)
        received, following = b"", itertools.cycle(request)
        while not received.endswith(body[-100:]):
            more = connection.recv(65536)
            assert more
            received += more
            connection.sendall(bytes([next(following)]))  # before the server has ended its side, and after
        assert received.endswith(body)
        assert connection.recv(1) == b""
    service.stop()


class Pair:
    """Both ends of a connection, the server's as a copy that is kept in a drain."""

    def __init__(self, received: int = 65536) -> None:
        """Connect; the client's receive buffer has so many bytes."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.client = socket.socket()
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
            self.client.connect(listening.getsockname())
            self.server, _ = listening.accept()
        self.kept = Connection(self.server.dup())
        os.set_blocking(self.server.fileno(), False)  # as Granian has it; a copy of Python's would change it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self.client, self.server, self.kept.copy):
            each.close()

    def is_in_use(self, *, is_expected: bool = False) -> bool:
        """Close the server's own, as Granian does, and return whether the copy is to be kept."""
        self.server.close()
        return self.kept.begin(is_expected=is_expected)


def test_a_connection_that_is_idle_is_not_waited_for() -> None:
    with Pair() as pair:
        pair.server.sendall(b"x" * 100)  # GOAWAY, say, which may not be acknowledged yet
        assert not pair.is_in_use()
    with Pair() as pair:
        assert pair.is_in_use(is_expected=True)


def test_one_that_something_was_sent_on_is_waited_for_until_its_client_has_closed_it() -> None:
    with Pair() as pair:
        pair.server.sendall(b"x" * 1000)
        assert pair.is_in_use()
        pair.client.sendall(b"y" * 100_000)
        assert not pair.kept.is_over(is_patient=True)
        assert pair.client.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
        assert pair.client.recv(1) == b""
        pair.client.close()
        wait_until(lambda: pair.kept.is_over(is_patient=True), "the client's end")


@pytest.mark.parametrize("is_patient", [True, False])
def test_a_client_that_takes_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, *, is_patient: bool) -> None:
    monkeypatch.setattr(lingering, "STALLED" if is_patient else "QUIET", 0.01)
    with Pair(4096) as pair:
        pair.server.setblocking(False)  # noqa: FBT003 - socket's signature
        pair.server.send(b"x" * 1_000_000)
        assert pair.is_in_use()
        wait_until(lambda: pair.kept.is_over(is_patient=is_patient), "the end of patience")
        assert pair.client.recv(1) == b"x"


def test_a_client_that_sends_on_is_waited_for_no_longer_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "LATEST", 0.1)
    with Pair() as pair:
        pair.client.sendall(b"y")
        assert pair.is_in_use()

        def is_over() -> bool:
            pair.client.sendall(b"y")
            return pair.kept.is_over(is_patient=True)

        wait_until(is_over, "the end")


@contextmanager
def kept_connections(pair: Pair, reserved: int, end: Callable[[], float]) -> Iterator[Lingering]:
    """Connections that are kept by a thread, which ends afterwards."""
    one = Lingering(pair.server.getsockname()[1], is_patient=True, reserved=reserved, end=end)
    one.begin()
    try:
        yield one
    finally:
        pair.server.close()
        asyncio.run(one.before_drain([]))


def test_nobody_is_waited_for_when_the_drain_has_to_be_over() -> None:
    """Else the worker would be killed with what its application has started, though all is done."""
    before = set(threading.enumerate())
    with Pair() as pair, kept_connections(pair, 0, time.monotonic):
        wait_until(lambda: set(threading.enumerate()) <= before, "the thread's end")


def test_a_worker_that_is_replaced_for_its_size_waits_for_nobody_beyond_its_time() -> None:
    """The launcher says no end, as it does not drain."""
    before = set(threading.enumerate())
    with Pair() as pair:
        port = pair.server.getsockname()[1]
        one = Lingering(port, is_patient=True, reserved=0, end=lambda: math.inf, alone=0.0)
        asyncio.run(one.before_drain([]))
        wait_until(lambda: set(threading.enumerate()) <= before, "the thread's end")


def test_no_file_is_taken_that_a_client_may_need_before_the_drain() -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Pair() as pair, kept_connections(pair, limit, lambda: math.inf) as one:
        wait_until(lambda: one.is_short, "a look")
        before = open_files(os.getpid())
        asyncio.run(one.before_drain([]))
        wait_until(lambda: open_files(os.getpid()) > before, "a copy")


def test_a_copy_never_waits_whatever_an_application_has_made_of_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    former = socket.getdefaulttimeout()
    with Pair() as pair:
        port = pair.server.getsockname()[1]
        monkeypatch.setattr(socket, "socket", None)
        socket.setdefaulttimeout(10)
        try:
            copy = copy_of(pair.server.fileno(), port)
        finally:
            socket.setdefaulttimeout(former)
        assert copy is not None
        with closing(copy), pytest.raises(BlockingIOError):
            copy.recv(1)


def test_an_applications_own_sockets_are_left_as_they_are() -> None:
    """Whether one waits is of all its copies."""
    with Pair() as pair:
        former = socket.getdefaulttimeout()
        socket.setdefaulttimeout(10)
        try:
            assert copy_of(pair.client.fileno(), pair.server.getsockname()[1]) is None
        finally:
            socket.setdefaulttimeout(former)
        assert os.get_blocking(pair.client.fileno())


def test_a_drain_has_time_for_the_application_though_connections_are_not_all_kept() -> None:
    """WebSockets, too, are waited for no longer than half of what is left then."""
    end = time.monotonic() + 0.9
    web_sockets = WebSockets("test", 0, patience=1.5)

    async def nothing_to_do() -> None:
        return

    draining = Draining("test", lambda *_: nothing_to_do(), nothing_to_do, web_sockets)
    draining.lingering = Lingering(0, is_patient=True, reserved=0, end=lambda: end)
    draining.lingering.begin = lambda: None  # type: ignore[method-assign]  # no look is over in time
    asyncio.run(draining.before_drain())
    assert time.monotonic() < end
    assert web_sockets.patience < (0.9 - 0.9 * lingering.SHARE) / 2 + 0.01


def test_files_that_a_worker_inherits_are_no_room_for_copies(launch: Launch, tmp_path: Path) -> None:
    """Before the drain its last clients would find no file, and the worker would be replaced for that."""
    clients, inherited, room = 20, 5, 3
    limit = f"ulimit -n {WORKER_DESCRIPTORS + inherited + clients + room}"
    inherit = " ".join(f"{number}</dev/null" for number in range(3, 3 + inherited))
    arguments = configured(tmp_path, re.sub(r"backpressure = \d+", f"backpressure = {clients}", SERVER_TOML))
    wrapper = ["sh", "-c", f'{limit}; exec {inherit}; exec "$@"', "sh"]
    service = launch(arguments, WORKERS="1", wrapper=wrapper).ready()
    server_process = service.server_process_of("json")
    (worker,) = service.workers(server_process)
    wait_until(lambda: open_connections(service.port) == 0, "the end of the launcher's connection")
    idle = open_files(worker)
    with ExitStack() as stack:
        for _ in range(clients):
            exchange(stack.enter_context(connected(service.port)))
        os.kill(server_process, CLOSE_NOTICE)
        wait_until(lambda: open_files(worker) >= idle + clients + room, "the copies that there is room for")
        time.sleep(5 * lingering.PAUSE)  # in which it looks for more
        assert open_files(worker) == idle + clients + room
    service.stop()

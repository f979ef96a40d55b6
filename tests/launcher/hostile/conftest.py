"""A service whose time-outs are a second each, and connections to it; others are served all the while."""

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bench import oracle
from tests.support.configuration import SERVER_TOML, configured
from tests.support.hostile import DEADLINE, Connect
from tests.support.http1 import get_on_new_connection
from tests.support.processes import wait_until
from tests.support.service import Service, serving


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, pair: dict[str, str]) -> Iterator[Service]:
    """A service whose time-outs are a second each."""
    folder = tmp_path_factory.mktemp("impatient")
    text = re.sub(r"^(header_read_timeout|unread_timeout) = 30", r"\1 = 1", SERVER_TOML, flags=re.MULTILINE)
    with serving(Service(folder, configured(folder, text), **pair)) as running:
        # Its last line of the start comes after the listeners are announced, hence perhaps during the first test.
        wait_until(lambda: "all listeners respond" in running.report(), "the end of the start")
        yield running


@pytest.fixture(autouse=True)
def other_clients_are_served(service: Service, trust: ssl.SSLContext) -> Iterator[None]:
    """Serve other clients meanwhile; afterwards the workers are the same, and nothing was logged."""
    workers = service.all_workers()
    logged = service.report()
    ending = threading.Event()
    failures: list[str] = []

    def request_until_the_end(context: ssl.SSLContext | None) -> None:
        while not failures:
            ended = ending.is_set()  # read before the request, so that the last one comes after the test's end
            begun = time.monotonic()
            try:
                if get_on_new_connection(service, context, DEADLINE) != oracle.body(3, 2):
                    failures.append("a wrong body")
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, ConnectionResetError) and time.monotonic() - begun > 1:
                    continue  # this client may have been too late with its head
                failures.append(repr(error))
            if ended:
                return
            ending.wait(0.05)

    others = [threading.Thread(target=request_until_the_end, args=(context,)) for context in (None, trust)]
    for each in others:
        each.start()
    yield
    ending.set()
    for each in others:
        each.join()
    assert failures == []
    assert service.all_workers() == workers
    assert service.report() == logged


@pytest.fixture
def connect(service: Service) -> Iterator[Connect]:
    """Open connections to the plaintext port; the test's end closes them."""
    with ExitStack() as stack:

        def opened() -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection

        yield opened


@pytest.fixture
def connect_tls_port(service: Service) -> Iterator[Connect]:
    """Open connections to the TLS port, without a handshake."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", service.tls_port), timeout=DEADLINE))


@pytest.fixture(params=["json", "json-tls"])
def connection(
    request: pytest.FixtureRequest, connect: Connect, service: Service, trust: ssl.SSLContext
) -> Iterator[socket.socket]:
    if request.param == "json":
        yield connect()
        return
    plain = socket.create_connection(("localhost", service.tls_port), timeout=DEADLINE)
    with trust.wrap_socket(plain, server_hostname="localhost") as encrypted:
        yield encrypted

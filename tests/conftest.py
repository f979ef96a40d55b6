"""Fixtures that each make one thing and feed the next: authority, pair, client context, running service."""

import resource
import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from hypothesis import settings

from bench.verified_load import Load
from tests.support.certificates import issue
from tests.support.load import Loads
from tests.support.ports import free_port
from tests.support.renewals import Renewing
from tests.support.service import Launch, Service, serving

settings.register_profile("without a clock", deadline=None)  # a busy machine is no failure
settings.load_profile("without a clock")
CONNECTIONS = 1100  # the most that a test opens in this process; the container's open more
RUN_A_SERVER = {"service", "h2c_service", "launch"}  # fixtures; a test that does it itself has the marker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server process, so that `make test-fast` leaves it out, and order by length."""
    for item in items:
        if isinstance(item, pytest.Function) and RUN_A_SERVER & set(item.fixturenames):
            item.add_marker("server")
    items.sort(
        key=lambda item: item.get_closest_marker("long") is None
    )  # so that nobody waits for a long one at the end


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def authority_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate, for a client in another process."""
    path = tmp_path_factory.mktemp("authority") / "authority.crt"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def pair_folder(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with server.crt and server.key, signed by the authority."""
    return issue(authority, tmp_path_factory.mktemp("certs"), "localhost", "127.0.0.1")


@pytest.fixture(scope="session")
def pair(pair_folder: Path) -> dict[str, str]:
    """The pair as the environment names it."""
    return {"TLS_CERT": str(pair_folder / "server.crt"), "TLS_KEY": str(pair_folder / "server.key")}


@pytest.fixture(scope="session")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the authority and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.fixture
def authority_context(authority: trustme.CA) -> ssl.SSLContext:
    """A context like `trust`, for a test to change."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, pair: dict[str, str]) -> Iterator[Service]:
    """A running service that tests share and leave as it is."""
    with serving(Service(tmp_path_factory.mktemp("service"), **pair)) as running:
        yield running


@pytest.fixture(scope="session")
def h2c_service(tmp_path_factory: pytest.TempPathFactory, pair: dict[str, str]) -> Iterator[Service]:
    """A running service with all three listeners, which tests share and leave as it is."""
    with serving(Service(tmp_path_factory.mktemp("h2c"), H2C_PORT=str(free_port()), **pair)) as running:
        before = set(running.descendants)
        yield running
        running.remember()
        assert running.descendants == before, "a worker died"


@pytest.fixture
def many_files() -> Iterator[int]:
    """Let this process open as many files as the hard limit allows, and return how many.

    Without room for CONNECTIONS the test is skipped.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTIONS + 200:
        pytest.skip(f"the hard limit on open files is {hard}: no room for {CONNECTIONS} connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start services that end with the test."""
    started: list[Service] = []

    def start(*arguments: str, wrapper: Sequence[str] = (), **environment: str) -> Service:
        folder = tmp_path / f"service-{len(started)}"
        folder.mkdir()
        started.append(Service(folder, *arguments, wrapper=wrapper, **environment))
        return started[-1]

    yield start
    for each in started:
        each.destroy()


@pytest.fixture
def renewing(launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path) -> Renewing:
    """A service to start, and to renew the pair of."""
    return Renewing(launch, authority, trust, tmp_path)


@pytest.fixture
def load(authority_file: Path) -> Iterator[Loads]:
    """Start loads of a service's listeners that end with the test."""
    with ExitStack() as stack:

        def start(service: Service, listener: str, connections: int, *, requests: int = 0, pause: float = 0.0) -> Load:
            authority = authority_file if listener == "json-tls" else None
            each = Load(service.port_of(listener), connections, authority=authority, requests=requests, pause=pause)
            return stack.enter_context(each)

        yield start

"""Fixtures that each make one thing and feed the next: authority, pair, client context, running service."""

import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trustme

ROOT = Path(__file__).parent.parent
START_DEADLINE = 30.0
STOP_DEADLINE = 4.0
CONNECTIONS = 4096


def clean_environment() -> dict[str, str]:
    """What a new shell would have: none of the variables that the service or TLS clients read."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(condition: Callable[[], bool], what: str, deadline: float = 10.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline} s: {what}")
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    try:
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except FileNotFoundError:
        return []


def is_running(pid: int) -> bool:
    """Whether the process is there and more than a zombie."""
    try:
        return not re.search(r"^State:\s+[ZX]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_free(port: int) -> bool:
    """Whether the port can be had without sharing it."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Service:
    """`python -m app` as a process."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        self.port, self.tls_port = free_ports(2)
        variables = {"PORT": str(self.port), "TLS_PORT": str(self.tls_port), "WORKERS": "2", **environment}
        self.environment = clean_environment() | variables
        self.output, self.errors = folder / "stdout", folder / "stderr"
        with self.output.open("wb") as stdout, self.errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", *arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        self.descendants: set[int] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://localhost:{self.tls_port}"

    @property
    def granians(self) -> list[int]:
        """The Granian of each listener, in the order of their start."""
        return sorted(children(self.process.pid))

    def workers(self, granian: int) -> list[int]:
        return sorted(children(granian))

    def report(self) -> str:
        return f"stdout:\n{self.output.read_text()}\nstderr:\n{self.errors.read_text()}"

    def ready(self) -> "Service":
        """Wait until both listeners are announced and all workers are there."""

        def announced() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"ended with {self.process.returncode} before it was ready\n{self.report()}")
            return "\n  curl 'http:" in self.output.read_text()

        end = time.monotonic() + START_DEADLINE
        while not announced():
            if time.monotonic() > end:
                pytest.fail(f"not ready within {START_DEADLINE} s\n{self.report()}")
            time.sleep(0.02)
        expected = int(self.environment["WORKERS"])
        listeners = 3 if "H2C_PORT" in self.environment else 2
        wait_until(
            lambda: [len(self.workers(granian)) for granian in self.granians] == [expected] * listeners, "all workers"
        )
        self.remember()
        return self

    def remember(self) -> None:
        """Note the descendants of now, whose end `gone` looks for."""
        for granian in self.granians:
            self.descendants |= {granian, *self.workers(granian)}

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, deadline: float = STOP_DEADLINE) -> int:
        """Wait for the launcher's end and return its exit status."""
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            pytest.fail(f"not ended within {deadline} s\n{self.report()}")

    def gone(self, deadline: float = 5.0) -> None:
        """Fail unless every process of it ends, and both ports are free, within `deadline`."""
        wait_until(
            lambda: (
                not any(is_running(pid) for pid in self.descendants) and is_free(self.port) and is_free(self.tls_port)
            ),
            f"the end of {self.descendants}",
            deadline,
        )

    def stop(self) -> None:
        """Stop as an operator would; nothing may be left, and nothing unasked-for on stderr."""
        self.remember()
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.report()
        self.gone()

    def destroy(self) -> None:
        """Leave nothing behind, whatever the test did."""
        self.remember()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.descendants:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def serving(service: Service) -> Iterator[Service]:
    """Wait until it is ready; afterwards it has to stop as asked, and to have said nothing on stderr."""
    try:
        yield service.ready()
        service.stop()
        assert service.errors.read_text() == ""
    finally:
        service.destroy()


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
    folder = tmp_path_factory.mktemp("certs")
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    leaf.private_key_pem.write_to_path(str(folder / "server.key"))
    for position, blob in enumerate(leaf.cert_chain_pems):
        blob.write_to_path(str(folder / "server.crt"), append=position > 0)
    return folder


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


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open as many files as the hard limit allows; without room for CONNECTIONS the test is left out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTIONS + 200:
        pytest.skip(f"the hard limit on open files is {hard}: no room for {CONNECTIONS} connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


Launch = Callable[..., Service]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start services that end with the test."""
    started: list[Service] = []

    def start(*arguments: str, **environment: str) -> Service:
        folder = tmp_path / f"service-{len(started)}"
        folder.mkdir()
        started.append(Service(folder, *arguments, **environment))
        return started[-1]

    yield start
    for each in started:
        each.destroy()


Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def check() -> Check:
    """Run `python -m app --check` to its end."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        port, tls_port = free_ports(2)
        return subprocess.run(
            [sys.executable, "-m", "app", "--check", *arguments],
            cwd=ROOT,
            env=clean_environment() | {"PORT": str(port), "TLS_PORT": str(tls_port)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run

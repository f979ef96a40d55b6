"""`python -m app` as a process: started, waited for, stopped, and looked after."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx
import pytest

from tests.support.ports import free_ports, is_free
from tests.support.processes import ROOT, children, clean_environment, is_running, wait_until

START_DEADLINE = 30.0
STOP_DEADLINE = 4.0
Listener = Literal["json", "json-tls"]


class Service:
    """`python -m app` with two listeners, or three if H2C_PORT is set; a `wrapper` is a command that executes it."""

    def __init__(self, folder: Path, *arguments: str, wrapper: Sequence[str] = (), **environment: str) -> None:
        self.folder = folder
        self.port, self.tls_port = free_ports(2)
        variables = {"PORT": str(self.port), "TLS_PORT": str(self.tls_port), "WORKERS": "2", **environment}
        self.environment = clean_environment() | variables
        self.output, self.errors = folder / "stdout", folder / "stderr"
        with self.output.open("wb") as stdout, self.errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, "-m", "app", *arguments],
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
    def h2c_port(self) -> int:
        return int(self.environment["H2C_PORT"])

    @property
    def h2c_url(self) -> str:
        return f"http://127.0.0.1:{self.h2c_port}"

    def port_of(self, listener: str) -> int:
        """Return the port of `json` or `json-tls`."""
        return self.tls_port if listener == "json-tls" else self.port

    @property
    def server_processes(self) -> list[int]:
        """The server process of each listener, in the order of their start: that of json-tls first, of json last."""
        return sorted(children(self.process.pid))

    def workers(self, server_process: int) -> list[int]:
        return sorted(children(server_process))

    def all_workers(self) -> list[list[int]]:
        """Return the workers of each server process."""
        return [self.workers(each) for each in self.server_processes]

    def replaced(self, server_process: int, worker: int) -> bool:
        """Whether another worker has taken the place of one that has ended."""
        workers = self.workers(server_process)
        return worker not in workers and len(workers) == int(self.environment["WORKERS"])

    def report(self) -> str:
        return f"stdout:\n{self.output.read_text()}\nstderr:\n{self.errors.read_text()}"

    def ready(self) -> "Service":
        """Wait until all listeners are announced and all workers are there."""

        def announced() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"ended with {self.process.returncode} before it was ready\n{self.report()}")
            return "\n  curl 'http:" in self.output.read_text()

        end = time.monotonic() + START_DEADLINE
        while not announced():
            if time.monotonic() > end:
                pytest.fail(f"not ready within {START_DEADLINE} s\n{self.report()}")
            time.sleep(0.02)
        return self._with_all_workers()

    def responding(self) -> "Service":
        """Wait until the last listener responds, hence all, and all workers are there: for one whose lines are lost."""
        wait_until(lambda: self.process.poll() is not None or self._last_responds(), "a response", START_DEADLINE)
        assert self.process.poll() is None, self.report()
        return self._with_all_workers()

    def _last_responds(self) -> bool:
        try:
            return httpx.get(f"{self.url}/json/1", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def _with_all_workers(self) -> "Service":
        expected = int(self.environment["WORKERS"])
        listeners = 3 if "H2C_PORT" in self.environment else 2
        wait_until(lambda: [len(workers) for workers in self.all_workers()] == [expected] * listeners, "all workers")
        self.remember()
        return self

    def remember(self) -> None:
        """Note the descendants of now, whose end `gone` waits for."""
        for each in self.server_processes:
            self.descendants |= {each, *self.workers(each)}

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, deadline: float = STOP_DEADLINE) -> int:
        """Wait for the launcher's end and return its exit status."""
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            pytest.fail(f"not ended within {deadline} s\n{self.report()}")

    def gone(self, deadline: float = 5.0) -> None:
        """Fail unless every process of it ends, and both ports are free, within `deadline` seconds."""
        wait_until(
            lambda: (
                not any(is_running(pid) for pid in self.descendants) and is_free(self.port) and is_free(self.tls_port)
            ),
            f"the end of {self.descendants}",
            deadline,
        )

    def stop(self) -> None:
        """Stop as an operator would; the exit status has to be 0, and no process may be left."""
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
    """Wait until it is ready; afterwards it has to stop as asked, and to have written nothing to stderr."""
    try:
        yield service.ready()
        service.stop()
        assert service.errors.read_text() == ""
    finally:
        service.destroy()


Launch = Callable[..., Service]

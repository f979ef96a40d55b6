"""`python -m app` as a process: started, waited for, stopped, and looked after."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.launcher import probe
from app.settings import config
from app.settings.config import Listener
from app.settings.errors import ConfigurationError
from tests.support.log import Log
from tests.support.ports import free_ports, is_free
from tests.support.processes import ROOT, children, clean_environment, is_running, server_processes, wait_until

START_DEADLINE = 30.0
STOP_DEADLINE = 4.0


def listeners_of(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Listener, ...]:
    """Return the listeners of `python -m app` in the order of their start; none if it will reject its settings."""
    named = [each.removeprefix("--config=") for each in arguments if each.startswith("--config=")]
    try:
        return config.read(config.path_of(named[0] if named else None, environment), environment).listeners
    except ConfigurationError:  # the test's to see, in what the service says
        return ()


def with_free_ports(variables: Mapping[str, str], *arguments: str) -> dict[str, str]:
    """Return an environment in which each listener has a free port that it will have, unless it names one."""
    listeners = listeners_of(arguments, variables)
    named = {each.port_variable for each in listeners if each.port_variable} - variables.keys()
    return {**variables, **dict(zip(sorted(named), map(str, free_ports(len(named))), strict=True))}


class Service:
    """`python -m app` with the listeners of its server.toml, whose ports are free ones unless the environment has them.

    A `wrapper` is a command that executes it.
    """

    def __init__(self, folder: Path, *arguments: str, wrapper: Sequence[str] = (), **environment: str) -> None:
        self.folder = folder
        variables = clean_environment() | {"WORKERS": "2", "SELF_SIGNED": "1", **environment}
        self.environment = with_free_ports(variables, *arguments)
        self.listeners = listeners_of(arguments, self.environment)
        self.output, self.errors = folder / "stdout", Log(folder / "stderr")
        with self.output.open("wb") as stdout, self.errors.path.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, "-m", "app", *arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # without a terminal, which would make SIGHUP a stop
            )
        self.descendants: set[int] = set()

    def port_of(self, listener: str) -> int:
        """Return the port of the listener of that name."""
        return {each.name: each.port for each in self.listeners}[listener]

    @property
    def port(self) -> int:
        return self.port_of("json")

    @property
    def tls_port(self) -> int:
        return self.port_of("json-tls")

    @property
    def h2c_port(self) -> int:
        return self.port_of("json-h2c")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://localhost:{self.tls_port}"

    @property
    def h2c_url(self) -> str:
        return f"http://127.0.0.1:{self.h2c_port}"

    @property
    def server_processes(self) -> list[int]:
        """The server process of each listener, and replacements, in the order of their start: that of json-tls first."""
        return server_processes(self.process.pid)

    def server_process_of(self, listener: str) -> int:
        """Return the server process that a listener was started with."""
        return self.server_processes[[each.name for each in self.listeners].index(listener)]

    def workers(self, server_process: int) -> list[int]:
        return children(server_process)

    def all_workers(self) -> list[list[int]]:
        """Return the workers of each server process."""
        return [self.workers(each) for each in self.server_processes]

    def replaced(self, server_process: int, worker: int) -> bool:
        """Whether another worker has taken the place of one that has ended."""
        workers = self.workers(server_process)
        return worker not in workers and len(workers) == int(self.environment["WORKERS"])

    def report(self) -> str:
        return f"stdout:\n{self.output.read_text()}\nstderr:\n{self.errors.path.read_text()}"

    def ready(self) -> "Service":
        """Wait until all listeners are announced and all workers are there."""

        def announced() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"ended with {self.process.returncode} before it was ready\n{self.report()}")
            described = re.findall(r"^(\S+): .+\n  .+\n", self.output.read_text(), re.MULTILINE)
            return {each.name for each in self.listeners} <= set(described)

        end = time.monotonic() + START_DEADLINE
        while not announced():
            if time.monotonic() > end:
                pytest.fail(f"not ready within {START_DEADLINE} s\n{self.report()}")
            time.sleep(0.02)
        return self._with_all_workers()

    def responding(self) -> "Service":
        """Wait until the last listener responds, hence all, and all workers are there: for one whose lines are lost."""

        def ended_or_responds() -> bool:
            return self.process.poll() is not None or probe.responds("127.0.0.1", self.listeners[-1])

        wait_until(ended_or_responds, "a response", START_DEADLINE)
        assert self.process.poll() is None, self.report()
        return self._with_all_workers()

    def _with_all_workers(self) -> "Service":
        expected = [int(self.environment["WORKERS"])] * len(self.listeners)
        wait_until(lambda: [len(workers) for workers in self.all_workers()] == expected, "all workers")
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
        """Fail unless every process of it ends, and all its ports are free, within `deadline` seconds."""

        ports = [each.port for each in (*self.listeners, *(each.metrics for each in self.listeners)) if each]

        def nothing_is_left() -> bool:
            return not any(map(is_running, self.descendants)) and all(map(is_free, ports))

        wait_until(nothing_is_left, f"the end of {self.descendants}", deadline)

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
    """Wait until it is ready; afterwards it has to stop as asked, and to have logged nothing that deserves a look."""
    try:
        yield service.ready()
        service.stop()
        assert service.errors.read_text() == ""
    finally:
        service.destroy()


Launch = Callable[..., Service]

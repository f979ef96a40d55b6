"""The images in the Docker engine that `docker info` reaches."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.ports import free_ports
from tests.support.processes import ROOT, wait_until

SERVICE_IMAGE, ARENA_IMAGE = "granian-json-test-service", "granian-json-test-arena"
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
ARENA = ("--security-opt", "seccomp=unconfined")  # and unlimited memlock, which no memory here is locked for
GIB = 2**30


def engine_responds() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def built(name: str, *options: str) -> str:
    """Build an image from the repository, or from the folder that the options name last; return its name."""
    if not engine_responds():
        pytest.skip("no Docker engine: `docker info` does not respond")
    docker("build", "--network", "host", "-t", name, *(options or ["."]), timeout=900)
    return name


def docker(*arguments: str, check: bool = True, timeout: float = 60) -> str:
    result = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT
    )
    if check and result.returncode:
        pytest.fail(f"docker {' '.join(arguments)}: {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


@dataclass
class Container:
    identity: str
    port: int
    tls_port: int
    h2c_port: int
    """Served by the arena's image alone."""
    begin: float

    @property
    def logs(self) -> str:
        return docker("logs", self.identity)

    def inspect(self, template: str) -> str:
        return docker("inspect", "-f", template, self.identity).strip()

    def get(self, target: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{target}", trust_env=False)

    def ready(self) -> "Container":
        def responds() -> bool:
            if self.inspect("{{.State.Running}}") != "true":
                pytest.fail(f"ended with {self.inspect('{{.State.ExitCode}}')}\n{self.logs}")
            try:
                return self.get("/baseline11?a=1&b=1").status_code > 0
            except httpx.TransportError:
                return False

        wait_until(responds, "a response", 30)
        return self

    def stop(self) -> None:
        begin = time.monotonic()
        docker("stop", "-t", "5", self.identity)
        assert time.monotonic() - begin < 5
        assert self.inspect("{{.State.ExitCode}}") == "0", self.logs


Run = Callable[..., Container]


@contextmanager
def running(image: str, *variables: str) -> Iterator[Run]:
    """Run an image on the host's network, on free ports that those variables name; the containers go with the test."""
    containers: list[str] = []

    def start(*options: str) -> Container:
        port, tls_port, h2c_port = free_ports(3)
        ports = {"PORT": port, "TLS_PORT": tls_port, "H2C_PORT": h2c_port}
        chosen = [part for name in variables for part in ("-e", f"{name}={ports[name]}")]
        begin = time.monotonic()
        identity = (
            docker("run", "-d", "--network", "host", *chosen, "-e", "SELF_SIGNED=1", *options, image)
            .strip()
            .splitlines()[-1]
        )
        containers.append(identity)
        return Container(identity, port, tls_port, h2c_port, begin)

    try:
        yield start
    finally:
        for identity in containers:
            docker("rm", "-f", identity, check=False)


def mounts(dataset: Path, certs: Path) -> tuple[str, ...]:
    return ("-v", f"{dataset}:/data/dataset.json:ro", "-v", f"{certs}:/certs:ro")

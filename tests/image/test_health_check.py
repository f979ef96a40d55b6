"""The images' health checks: they ask every listener, however the container is run, and see workers that are stopped."""

import json

import pytest

from tests.support.container import HARDENED, Container, Run, docker
from tests.support.ports import free_port
from tests.support.processes import wait_until

pytestmark = pytest.mark.container

TMP = ("--tmpfs", "/tmp")  # noqa: S108 - the container's
CHECK = ("python", "-I", "-S", "/app/launcher/health.py")
WORKERS = """
import os, signal, sys
parents = {}
for each in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{each}/stat") as file:
            parents[int(each)] = int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        pass
servers = sorted(each for each, parent in parents.items() if parent == 1)
for each in [each for each, parent in parents.items() if parent == servers[int(sys.argv[1])]]:
    os.kill(each, signal.Signals[sys.argv[2]])
    print(each)
"""
"""Sends a signal to the workers of a listener, which are numbered in the order of their start."""


@pytest.mark.parametrize("image_run", ["run", "run_arena"])
def test_it_covers_all_listeners_and_so_does_the_command_for_people(
    request: pytest.FixtureRequest, image_run: str
) -> None:
    container = request.getfixturevalue(image_run)("--health-interval=1s").ready()
    becomes(container, "healthy")
    assert probed(container, TLS_PORT=free_port()) == ["listener json-tls does not respond"]
    assert probed(container, PORT=free_port()) == ["listener json does not respond"]
    if image_run == "run_arena":
        swapped = probed(container, H2C_PORT=container.port, PORT=container.h2c_port)
        assert swapped == ["listener json-h2c does not respond", "listener json does not respond"]


def probed(container: Container, **ports: int) -> list[str]:
    """Run the command for people with other ports; return the lines that it writes."""
    variables = [part for name, port in ports.items() for part in ("-e", f"{name}={port}")]
    command = ("python", "-m", "app.launcher.probe")
    return docker("exec", *variables, container.identity, *command, check=False).splitlines()


def becomes(container: Container, status: str) -> None:
    wait_until(lambda: container.inspect("{{.State.Health.Status}}") == status, status, 30)


def checked(container: Container) -> str:
    """Run the health check, and return what it writes: nothing if all is well."""
    return docker("exec", container.identity, *CHECK, check=False)


@pytest.mark.parametrize("stopped", ["json-tls", "json-h2c", "json"])
def test_it_sees_that_a_listeners_workers_are_stopped(run_arena: Run, stopped: str) -> None:
    container = run_arena("--health-interval=1s", "--health-retries=1", "-e", "WORKERS=2").ready()
    becomes(container, "healthy")
    index = str(["json-tls", "json-h2c", "json"].index(stopped))

    def send(number: str) -> int:
        return len(docker("exec", container.identity, "python", "-c", WORKERS, index, number).splitlines())

    assert send("SIGSTOP") == 2
    becomes(container, "unhealthy")
    outputs = [each["Output"] for each in json.loads(container.inspect("{{json .State.Health.Log}}"))]
    assert outputs[-1] == f"listener {stopped} does not respond\n"
    assert send("SIGCONT") == 2
    becomes(container, "healthy")
    container.stop()


@pytest.mark.parametrize(
    "options",
    [("--init",), (*HARDENED, *TMP), ("--user", "12345", *TMP), ("--pid", "host")],
    ids=["init", "hardened", "another user", "processes of the host"],
)
def test_it_finds_the_launcher_however_the_container_is_run(run: Run, options: tuple[str, ...]) -> None:
    container = run("--health-interval=1s", *options).ready()
    becomes(container, "healthy")
    container.stop()


def test_of_containers_that_share_their_processes_each_asks_its_own_launcher(run: Run) -> None:
    """As in a pod with shareProcessNamespace."""
    first = run("-e", "WORKERS=1").ready()
    other = run("-e", "WORKERS=1", "--pid", f"container:{first.identity}").ready()
    assert [checked(each) for each in (first, other)] == ["", ""]
    docker("exec", first.identity, "python", "-c", WORKERS, "0", "SIGSTOP")
    assert [checked(each) for each in (first, other)] == ["listener json-tls does not respond\n", ""]

"""A swarm of this engine alone for these tests, and the stack of deploy/stack.yaml in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trustme

from tests.support.certificates import issue
from tests.support.container import SERVICE_IMAGE, built, docker
from tests.support.ports import free_ports
from tests.support.processes import wait_until
from tests.support.swarm import STACK, Stack

BALANCER_IMAGE, NEXT_IMAGE = "granian-json-test-haproxy", "granian-json-test-service:next"


@pytest.fixture(scope="session")
def image() -> str:
    return built(SERVICE_IMAGE, "--target", "service", ".")


@pytest.fixture(scope="session")
def next_image(image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that differs from the first as one release does from the other."""
    folder = tmp_path_factory.mktemp("next")
    (folder / "Dockerfile").write_text(f"FROM {image}\nENV RELEASE=next\n")
    return built(NEXT_IMAGE, str(folder))


@pytest.fixture(scope="session")
def balancer_image() -> str:
    return built(BALANCER_IMAGE, "--file", "deploy/haproxy.Dockerfile", "deploy")


def networks() -> set[str]:
    return set(docker("network", "ls", "--format", "{{.Name}}").split())


@contextmanager
def swarm() -> Iterator[None]:
    """Create a swarm, and leave it with all that is in it."""
    if docker("info", "--format", "{{.Swarm.LocalNodeState}}").split()[0] != "inactive":
        pytest.skip("this engine is in a swarm (`docker info`), which the tests leave alone")
    before = networks()
    docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        yield
    finally:
        docker("stack", "rm", STACK, check=False)
        left = ("ps", "-aq", "--filter", f"label=com.docker.stack.namespace={STACK}")
        wait_until(lambda: not docker(*left), "the end of the stack's containers", 60)
        docker("swarm", "leave", "--force")
        docker("network", "rm", *(networks() - before), check=False)  # docker_gwbridge outlives the swarm


@pytest.fixture(scope="session")
def stack(
    image: str, balancer_image: str, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The stack with three replicas, which each test leaves so."""
    folder = tmp_path_factory.mktemp("stack")
    authority.cert_pem.write_to_path(str(folder / "authority.crt"))
    port, tls_port = map(str, free_ports(2))
    variables = {"IMAGE": image, "HAPROXY_IMAGE": balancer_image, "REPLICAS": "3", "PORT": port, "TLS_PORT": tls_port}
    with swarm():
        stack = Stack(image, variables, folder)
        stack.deploy(PAIR="1", CERTS=str(issue(authority, folder / "certs-1")))
        yield stack.ready()

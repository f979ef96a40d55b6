"""A swarm of this engine alone for these tests, and the stack of deploy/stack.yaml in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trustme

from tests.support.certificates import issue
from tests.support.container import SERVICE_IMAGE, built, docker
from tests.support.ports import free_ports
from tests.support.swarm import REPLICAS, SERVICE, STACK, Stack, containers

BALANCER_IMAGE, NEXT_IMAGE = "granian-json-test-haproxy", "granian-json-test-service:next"
BRIDGE = "docker_gwbridge"  # of every swarm, and outlives it


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


@contextmanager
def swarm() -> Iterator[None]:
    """Create a swarm, and leave it with all that is in it."""
    if docker("info", "--format", "{{.Swarm.LocalNodeState}}").split()[0] != "inactive":
        pytest.skip("this engine is in a swarm (`docker info`), which the tests leave alone")
    had_bridge = BRIDGE in docker("network", "ls", "--format", "{{.Name}}").split()
    docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1")
    try:
        yield
    finally:
        docker("swarm", "leave", "--force")  # ends what runs, and removes its networks, but for one
        if left := docker("ps", "-aq", "--filter", f"label=com.docker.stack.namespace={STACK}").split():
            docker("rm", "-f", *left)
        if not had_bridge:
            docker("network", "rm", BRIDGE)


@pytest.fixture(scope="session")
def deployed(
    image: str, balancer_image: str, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    authority.cert_pem.write_to_path(str(folder / "authority.crt"))
    port, tls_port = map(str, free_ports(2))
    variables = {
        "IMAGE": image,
        "HAPROXY_IMAGE": balancer_image,
        "REPLICAS": str(REPLICAS),
        "PORT": port,
        "TLS_PORT": tls_port,
    }
    with swarm():
        stack = Stack(image, variables, folder)
        stack.deploy(PAIR="1", CERTS=str(issue(authority, folder / "certs-1")))
        yield stack.ready()


@pytest.fixture
def stack(deployed: Stack) -> Stack:
    """The stack with three healthy replicas, whatever the test before has left."""
    if len(containers(SERVICE)) != REPLICAS:
        deployed.scale(REPLICAS)
    deployed.settled(REPLICAS)
    return deployed

"""deploy/stack.yaml in a swarm of this engine alone, seen as its operator and its clients see it."""

import csv
import io
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.campaign import lost
from bench.verified_client import Tally
from bench.verified_load import Load
from tests.support.container import docker
from tests.support.processes import ROOT, wait_until

STACK = "granian-json-test"
SERVICE, BALANCER = f"{STACK}_service", f"{STACK}_haproxy"
REPLICAS = 3
LOAD_LABEL = "granian-json-test=load"
SETTLED = 60.0  # seconds for a service to have the replicas that it should have


@dataclass
class Stack:
    image: str
    variables: dict[str, str]
    """What the operator has set, from the last deployment on."""
    folder: Path
    """Has authority.crt; clients' containers mount it."""
    balancer: str = field(default="", init=False)

    def deploy(self, **variables: str) -> None:
        """Deploy with these variables and those from before, and return at once."""
        self.variables |= variables
        result = subprocess.run(
            ["docker", "stack", "deploy", "--resolve-image", "never", "--compose-file", "deploy/stack.yaml", STACK],
            cwd=ROOT,
            env=os.environ | self.variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr

    def ready(self) -> "Stack":
        """Wait until HAProxy has all replicas."""
        wait_until(lambda: bool(containers(BALANCER)), "HAProxy", SETTLED)
        (self.balancer,) = containers(BALANCER)
        self.settled(int(self.variables["REPLICAS"]))
        return self

    def settled(self, replicas: int) -> None:
        """Wait until so many replicas run, each is healthy, and both of HAProxy's backends have just these."""

        def is_settled() -> bool:
            return (
                len(containers(SERVICE)) == replicas
                and len(containers(SERVICE, "--filter", "health=healthy")) == replicas
                and all(len(self.servers(backend)) == replicas for backend in ("plaintext", "tls"))
            )

        try:
            wait_until(is_settled, f"{replicas} replicas", SETTLED)
        except BaseException:
            print(docker("service", "ps", "--no-trunc", SERVICE), docker("service", "logs", "--tail", "50", SERVICE))
            raise

    def scale(self, replicas: int) -> None:
        """Have so many replicas from now on, and return at once."""
        docker("service", "scale", "--detach", f"{SERVICE}={replicas}")

    def updated(self, state: str = "completed") -> int:
        """Wait until an update has come to an end, and return the fewest replicas that were healthy meanwhile."""
        template = "{{json .UpdateStatus}}"
        seen: list[dict[str, Any] | None] = []
        healthy: list[int] = []

        def has_ended() -> bool:
            healthy.append(len(containers(SERVICE, "--filter", "health=healthy")))
            seen.append(json.loads(docker("service", "inspect", "-f", template, SERVICE)))
            return (seen[-1] or {}).get("State") == state

        wait_until(has_ended, f"an update that is {state}", 2 * SETTLED)
        self.settled(int(self.variables["REPLICAS"]))
        return min(healthy)

    def servers(self, backend: str) -> dict[str, int]:
        """Return HAProxy's servers that are up, and the connections or requests that each has had."""
        ask = r'exec 3<>/dev/tcp/127.0.0.1/8404; printf "GET /;csv HTTP/1.0\r\n\r\n" >&3; cat <&3'
        answer = docker("exec", self.balancer, "bash", "-c", ask, check=False)
        rows = csv.DictReader(io.StringIO(answer.partition("# ")[2]))
        return {
            row["svname"]: int(row["stot"])
            for row in rows
            if (row["pxname"], row["svname"][:7], row["status"][:2]) == (backend, "replica", "UP")
        }

    def load(self, *, tls: bool, connections: int, requests: int, pause: float = 0.05) -> Load:
        """Load HAProxy from a container in its network: the load crosses the overlay network, and no port of the host.

        So it runs on a kernel without IPVS, too, which has neither virtual IPs nor the ingress mesh.
        """
        mounts = ("-v", f"{ROOT}:{ROOT}:ro", "-v", f"{self.folder}:{self.folder}:ro", "-w", str(ROOT))
        run = ("docker", "run", "--rm", "-i", "--user", "0", "--label", LOAD_LABEL, *mounts)
        return Load(
            8081 if tls else 8080,
            connections,
            authority=self.folder / "authority.crt" if tls else None,
            requests=requests,
            pause=pause,
            python=(*run, "--network", f"container:{self.balancer}", "--entrypoint", "python", self.image),
        )

    def served_leaf(self, trust: ssl.SSLContext) -> bytes | None:
        """Return the certificate that a new client gets, over the published port."""
        address = ("127.0.0.1", int(self.variables["TLS_PORT"]))
        with (
            socket.create_connection(address, timeout=10) as plain,
            trust.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return connection.getpeercert(binary_form=True)


def containers(service: str, *options: str) -> list[str]:
    """Return the running containers of a service."""
    return docker("ps", "-q", "--filter", f"label=com.docker.swarm.service.name={service}", *options).split()


class Loads:
    """Four loads of the stack: clients that keep their connections, and clients of one request, over both ports."""

    def __init__(self, stack: Stack, stack_of_contexts: ExitStack) -> None:
        self.loads = {
            f"{name}, {kind}": stack_of_contexts.enter_context(
                stack.load(tls=tls, connections=number, requests=requests)
            )
            for name, tls in (("plaintext", False), ("TLS", True))
            for kind, number, requests in (("kept", 24, 1000), ("new", 8, 1))
        }
        for name, load in self.loads.items():
            wait_until(lambda load=load: load.tally().responded > load.connections, f"responses: {name}", 30)  # type: ignore[misc]

    def end(self) -> dict[str, Tally]:
        """Wait for the responses still awaited, and print and return what became of each load."""
        tallies = {name: load.end() for name, load in self.loads.items()}
        for name, each in tallies.items():
            failures = f"{lost(each)} failed, {each.noticed} of {each.idle} closed after a notice"
            print(f"{name}: {each.responded} responses, {failures}, slowest {each.longest:.2f} s")
        return tallies


@contextmanager
def loaded(stack: Stack) -> Iterator[Loads]:
    """Load the stack until the end of the block, or before."""
    with ExitStack() as contexts:
        contexts.callback(remove_loads)
        yield Loads(stack, contexts)


def remove_loads() -> None:
    if left := docker("ps", "-aq", "--filter", f"label={LOAD_LABEL}").split():
        docker("rm", "-f", *left, check=False)

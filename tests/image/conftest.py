"""The image, built once, and containers of it."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from bench import oracle
from tests.support.certificates import write_self_signed
from tests.support.container import IMAGE, Container, Run, docker, engine_responds
from tests.support.ports import free_ports


@pytest.fixture(scope="session")
def image() -> str:
    if not engine_responds():
        pytest.skip("no Docker engine: `docker info` does not respond")
    docker("build", "--network", "host", "-t", IMAGE, ".", timeout=900)
    return IMAGE


@pytest.fixture
def run(image: str) -> Iterator[Run]:
    """Run the image on the host's network, on free ports; the containers go with the test."""
    containers: list[str] = []

    def start(*options: str, ports: bool = True) -> Container:
        port, tls_port, h2c_port = free_ports(3) if ports else (8080, 8081, 8082)
        chosen = {"PORT": port, "TLS_PORT": tls_port, "H2C_PORT": h2c_port} if ports else {}
        variables = [part for name, value in chosen.items() for part in ("-e", f"{name}={value}")]
        begin = time.monotonic()
        identity = docker("run", "-d", "--network", "host", *variables, *options, image).strip().splitlines()[-1]
        containers.append(identity)
        return Container(identity, port, tls_port, h2c_port, begin)

    yield start
    for identity in containers:
        docker("rm", "-f", identity, check=False)


@pytest.fixture
def arena_dataset(tmp_path: Path) -> Path:
    """Fifty items that are not the bundled ones."""
    items: list[dict[str, Any]] = json.loads(oracle.BUNDLED.read_text(encoding="utf-8"))
    for item in items:
        item["name"] = item["name"][::-1]
        item["price"] = random.randint(1, 500)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(items, indent=2), encoding="utf-8")
    path.chmod(0o644)
    return path


@pytest.fixture
def arena_certs(tmp_path: Path) -> Path:
    """An RSA-2048, self-signed, PKCS#8 pair, as the arena mounts it."""
    folder = tmp_path / "certs"
    folder.mkdir(mode=0o755)
    write_self_signed(folder, rsa.generate_private_key(65537, 2048), names=("server.crt", "server.key"))
    for path in (tmp_path, *folder.iterdir()):
        path.chmod(0o755)
    for path in tmp_path.parents:  # pytest's own folders are its user's alone
        if path.name.startswith("pytest-"):
            path.chmod(0o755)
    return folder

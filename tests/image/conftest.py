"""The two images, built once, and containers of them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from bench import oracle
from tests.support.certificates import write_self_signed
from tests.support.container import ARENA_IMAGE, SERVICE_IMAGE, Run, built, docker, running


@pytest.fixture(scope="session")
def image() -> str:
    """What teams deploy."""
    return identity(built(SERVICE_IMAGE, "--target", "service", "."))


@pytest.fixture(scope="session")
def arena_image() -> str:
    """What the arena builds: it knows no targets."""
    return identity(built(ARENA_IMAGE))


def identity(name: str) -> str:
    """Return an image's identity, which stays if another checkout builds the name meanwhile."""
    return docker("image", "inspect", "-f", "{{.Id}}", name).strip()


@pytest.fixture
def run(image: str) -> Iterator[Run]:
    with running(image, "PORT", "TLS_PORT") as start:
        yield start


@pytest.fixture
def run_arena(arena_image: str) -> Iterator[Run]:
    with running(arena_image, "PORT", "TLS_PORT", "H2C_PORT") as start:
        yield start


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
    write_self_signed(folder, rsa.generate_private_key(65537, 2048), names=("server.crt", "server.key"), days=90)
    for path in (tmp_path, *folder.iterdir()):
        path.chmod(0o755)
    for path in tmp_path.parents:  # pytest's own folders are its user's alone
        if path.name.startswith("pytest-"):
            path.chmod(0o755)
    return folder

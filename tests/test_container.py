"""The image: built, run as the arena runs it and as a team would, looked into, and stopped."""

import json
import os
import random
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from bench import oracle
from tests.conftest import ROOT, free_ports, wait_until
from tests.test_configuration import write_pair

IMAGE = "granian-json-test"
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
ARENA = ("--security-opt", "seccomp=unconfined")  # and unlimited memlock, which no memory here is locked for
GIB = 2**30


def engine_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


pytestmark = [
    pytest.mark.container,
    pytest.mark.skipif(not engine_answers(), reason="no Docker engine: `docker info` does not answer"),
]


def docker(*arguments: str, check: bool = True, timeout: float = 60) -> str:
    result = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT
    )
    if check and result.returncode:
        pytest.fail(f"docker {' '.join(arguments)}: {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def image() -> str:
    docker("build", "--network", "host", "-t", IMAGE, ".", timeout=900)
    return IMAGE


@dataclass
class Container:
    identity: str
    port: int
    tls_port: int
    h2c_port: int
    begin: float

    @property
    def logs(self) -> str:
        return docker("logs", self.identity)

    def inspect(self, template: str) -> str:
        return docker("inspect", "-f", template, self.identity).strip()

    def get(self, target: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{target}", trust_env=False)

    def ready(self) -> "Container":
        def answers() -> bool:
            if self.inspect("{{.State.Running}}") != "true":
                pytest.fail(f"ended with {self.inspect('{{.State.ExitCode}}')}\n{self.logs}")
            try:
                return self.get("/baseline11?a=1&b=1").status_code > 0
            except httpx.TransportError:
                return False

        wait_until(answers, "an answer", 30)
        return self

    def stop(self) -> None:
        begin = time.monotonic()
        docker("stop", "-t", "5", self.identity)
        assert time.monotonic() - begin < 5
        assert self.inspect("{{.State.ExitCode}}") == "0", self.logs


Run = Callable[..., Container]


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
    files = write_pair(folder, rsa.generate_private_key(65537, 2048))
    Path(files["TLS_CERT"]).rename(folder / "server.crt")
    Path(files["TLS_KEY"]).rename(folder / "server.key")
    for path in (tmp_path, *folder.iterdir()):
        path.chmod(0o755)
    for path in tmp_path.parents:  # pytest's own folders are its user's alone
        if path.name.startswith("pytest-"):
            path.chmod(0o755)
    return folder


def mounts(dataset: Path, certs: Path) -> tuple[str, ...]:
    return ("-v", f"{dataset}:/data/dataset.json:ro", "-v", f"{certs}:/certs:ro")


def pinned(certificate: Path) -> ssl.SSLContext:
    """Trust that certificate and nothing else; the arena's has no alternative names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)
    context.check_hostname = False
    return context


@pytest.mark.parametrize("options", [ARENA, HARDENED], ids=["arena", "hardened"])
def test_the_arenas_validation(run: Run, arena_dataset: Path, arena_certs: Path, options: tuple[str, ...]) -> None:
    container = run(*options, *mounts(arena_dataset, arena_certs)).ready()
    print(f"first answer {time.monotonic() - container.begin:.2f} s after docker run")
    context = pinned(arena_certs / "server.crt")
    context.set_alpn_protocols(["http/1.1"])
    # 8081 is probed as soon as 8080 answers, without waiting.
    with (
        socket.create_connection(("127.0.0.1", container.tls_port), timeout=5) as plain,
        context.wrap_socket(plain) as connection,
    ):
        leaf = connection.getpeercert(binary_form=True)
        assert leaf is not None
        mounted = x509.load_pem_x509_certificate((arena_certs / "server.crt").read_bytes())
        assert x509.load_der_x509_certificate(leaf).fingerprint(hashes.SHA256()) == mounted.fingerprint(hashes.SHA256())
        assert connection.version() == "TLSv1.3"
        assert re.search("GCM|POLY1305", str(connection.cipher()))
        assert connection.selected_alpn_protocol() == "http/1.1"
    dataset = json.loads(arena_dataset.read_text(encoding="utf-8"))
    with httpx.Client(verify=context, trust_env=False) as client:
        del client.headers["accept-encoding"]  # httpx offers gzip of its own accord
        for url in (f"http://127.0.0.1:{container.port}", f"https://localhost:{container.tls_port}"):
            assert client.get(f"{url}/json/1").json()["count"] == 1
            for _ in range(20):
                count, multiplier = random.randint(1, 50), random.randint(2, 89)
                response = client.get(f"{url}/json/{count}?m={multiplier}")
                assert response.http_version == "HTTP/1.1"
                assert "application/json" in response.headers["content-type"]
                assert "content-encoding" not in response.headers
                answer = response.json()
                assert answer["count"] == len(answer["items"]) == count
                for served, item in zip(answer["items"], dataset, strict=False):
                    assert served == {**item, "total": item["price"] * item["quantity"] * multiplier}
                    assert type(served["total"]) is int
    container.stop()


def test_the_arenas_validation_of_compressed_bodies(run: Run, arena_dataset: Path, arena_certs: Path) -> None:
    container = run(*ARENA, *mounts(arena_dataset, arena_certs)).ready()
    dataset = json.loads(arena_dataset.read_text(encoding="utf-8"))
    offered = {"accept-encoding": "gzip, br"}
    for count in (25, 40, 50, random.randint(1, 50)):
        target, multiplier = f"/json/{count}", random.randint(2, 89)
        response = httpx.get(
            f"http://127.0.0.1:{container.port}{target}?m={multiplier}", headers=offered, trust_env=False
        )
        assert (response.status_code, response.http_version) == (200, "HTTP/1.1")
        if count >= 25:
            assert response.headers["content-encoding"] in {"gzip", "br"}
            assert int(response.headers["content-length"]) < len(response.content) / 3
        totals = [item["price"] * item["quantity"] * multiplier for item in dataset[:count]]
        assert [item["total"] for item in response.json()["items"]] == totals
    assert (
        "content-encoding"
        not in httpx.get(
            f"http://127.0.0.1:{container.port}/json/50?m=2", headers={"accept-encoding": ""}, trust_env=False
        ).headers
    )
    container.stop()


def test_the_arenas_validation_of_http2_in_cleartext(run: Run, arena_dataset: Path, arena_certs: Path) -> None:
    container = run(*ARENA, *mounts(arena_dataset, arena_certs)).ready()
    url = f"http://127.0.0.1:{container.h2c_port}"
    dataset = json.loads(arena_dataset.read_text(encoding="utf-8"))
    with httpx.Client(http1=False, http2=True, trust_env=False) as client:
        for _ in range(20):
            count, multiplier = random.randint(1, 50), random.randint(2, 89)
            response = client.get(f"{url}/json/{count}?m={multiplier}")
            assert response.http_version == "HTTP/2"
            for served, item in zip(response.json()["items"], dataset[:count], strict=True):
                assert served == {**item, "total": item["price"] * item["quantity"] * multiplier}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/json/1", trust_env=False)
    container.stop()


def test_no_mounts_serve_the_bundled_dataset_and_a_pair_of_its_own(run: Run) -> None:
    container = run(*HARDENED, "--tmpfs", "/tmp").ready()  # noqa: S108 - the container's
    assert container.get("/json/5?m=3").content == oracle.body(5, 3)
    assert "a self-signed pair was made for this run" in container.logs
    container.stop()


def test_no_place_for_a_pair_of_its_own_is_said(run: Run) -> None:
    container = run(*HARDENED)
    wait_until(lambda: container.inspect("{{.State.Running}}") == "false", "its end")
    assert container.inspect("{{.State.ExitCode}}") == "2"
    assert container.logs.count("\n") == 1
    assert "--tmpfs /tmp" in container.logs


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_key_that_its_user_may_not_read_is_refused(run: Run, arena_dataset: Path, arena_certs: Path) -> None:
    (arena_certs / "server.key").chmod(0o600)
    container = run(*mounts(arena_dataset, arena_certs))
    wait_until(lambda: container.inspect("{{.State.Running}}") == "false", "its end")
    assert container.inspect("{{.State.ExitCode}}") == "2"
    assert "TLS_KEY=/certs/server.key may not be read by uid 65532, mode 0600" in container.logs
    assert container.logs.count("\n") == 1


def test_the_health_check_follows_all_listeners(run: Run) -> None:
    container = run("--health-interval=1s").ready()
    wait_until(lambda: container.inspect("{{.State.Health.Status}}") == "healthy", "healthy", 20)
    probe = ("exec", "-e", f"TLS_PORT={free_ports(1)[0]}", container.identity, "python", "-m", "app.launcher.probe")
    assert "listener json-tls does not answer" in docker(*probe, check=False)
    probe = ("exec", "-e", f"PORT={free_ports(1)[0]}", container.identity, "python", "-m", "app.launcher.probe")
    assert "listener json does not answer" in docker(*probe, check=False)
    swapped = ("-e", f"H2C_PORT={container.port}", "-e", f"PORT={container.h2c_port}")
    silent = docker("exec", *swapped, container.identity, "python", "-m", "app.launcher.probe", check=False)
    assert silent.splitlines() == ["listener json-h2c does not answer", "listener json does not answer"]


def test_what_is_inside(run: Run, image: str) -> None:
    container = run().ready()
    megabytes = int(docker("image", "inspect", "-f", "{{.Size}}", image)) / 1e6
    print(f"image size {megabytes:.0f} MB")
    look = (
        "import os, pathlib as p; print(os.getuid(), sorted(x.name for x in p.Path('/').iterdir()));"
        "print(sorted(str(x) for x in p.Path('/app').rglob('*')));"
        "print([str(x) for x in p.Path('/').glob('*/**/*.key')], [str(x) for x in p.Path('/root').glob('.cache')]);"
        "print(p.Path('/proc/1/cmdline').read_text().split(chr(0)))"
    )
    root, files, secrets, command = docker("exec", container.identity, "python", "-c", look).splitlines()
    assert root.startswith("65532 ")
    for foreign in ("tests", "bench", "'.git'", "certs", "Makefile", "requirements.txt"):
        assert foreign not in root
    assert "__pycache__" not in files
    assert "/app/__main__.py" in files
    assert secrets == "[] []"
    assert command.startswith("['python', '-m', 'app'")
    history = docker("history", "--no-trunc", image)
    assert "PRIVATE KEY" not in history


def test_a_change_of_the_application_reinstalls_nothing(image: str) -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    install = next(index for index, line in enumerate(lines) if "pip install" in line)
    copies = [index for index, line in enumerate(lines) if line.startswith("COPY app")]
    assert image
    assert all(index > install for index in copies)


def memory(container: Container) -> int:
    """What the container's cgroup counts, without the page cache it could give back (as `docker stats` does)."""
    stats = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container.identity)
    number, unit = re.match(r"([\d.]+)([KMG]iB)", stats.strip()).groups()  # type: ignore[union-attr]
    return int(float(number) * {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit])


@pytest.mark.parametrize(("listeners", "bound"), [(2, GIB), (3, GIB * 3 // 2)])
def test_64_workers_fit_into_a_gibibyte(run: Run, tmp_path: Path, listeners: int, bound: int) -> None:
    """A gibibyte for the two listeners of HTTP/1.1, half of one for another."""
    head, *tables = (ROOT / "server.toml").read_text().split("[[listener]]")
    file = tmp_path / "server.toml"
    file.write_text("[[listener]]".join([head, *(table for table in tables if listeners == 3 or "h2c" not in table)]))
    container = run("-e", "WORKERS=64", "-v", f"{file}:/server.toml:ro").ready()
    processes = 1 + listeners + listeners * 64
    wait_until(
        lambda: len(docker("top", container.identity, "-eo", "pid").splitlines()) == processes + 1, "all workers", 30
    )
    time_of_rest = time.monotonic() + 2

    def rested() -> bool:
        return time.monotonic() > time_of_rest

    wait_until(rested, "two seconds of rest, in which late starters have settled")
    used = memory(container)
    print(f"64 workers each of {listeners} listeners, idle: {used / 2**20:.0f} MiB")
    assert used <= bound
    container.stop()


def test_a_pair_of_an_authority_is_verified(run: Run, tmp_path: Path, arena_certs: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    leaf.private_key_pem.write_to_path(str(arena_certs / "server.key"))
    (arena_certs / "server.crt").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    container = run(*HARDENED, "-v", f"{arena_certs}:/certs:ro").ready()
    url = f"https://localhost:{container.tls_port}/json/7?m=2"
    assert httpx.get(url, verify=context, trust_env=False).content == oracle.body(7, 2)
    assert tmp_path.exists()
    container.stop()


def test_compose_loads_it_and_says_so(image: str, tmp_path: Path) -> None:
    assert image
    docker("build", "--network", "host", "-t", "granian-json", ".", timeout=900)
    docker("build", "--network", "host", "-t", "granian-json-benchmark", "-f", "bench/Dockerfile", ".", timeout=900)
    port, tls_port, h2c_port = map(str, free_ports(3))
    variables = {"PORT": port, "TLS_PORT": tls_port, "H2C_PORT": h2c_port, "DURATION": "1", "CONNECTIONS": "64"}
    compose = [
        "docker",
        "compose",
        "--project-name",
        f"test-{tmp_path.name.replace('_', '-')}",
        "--profile",
        "benchmark",
    ]

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*compose, *arguments],
            cwd=ROOT,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    try:
        loaded = command("run", "--rm", "benchmark")
        assert loaded.returncode == 0, loaded
        for scheme, number in (("http", 8080), ("https", 8081)):
            assert f"{scheme}://server:{number}: 50 bodies as the oracle's" in loaded.stdout
            assert re.search(
                rf"{scheme}://server:{number}: 64 connections, 1 s: rps \d+, p50 \S+ ms, p99 \S+ ms, transfer \S+ MB/s, errors 0",
                loaded.stdout,
            )
        mismatch = command("run", "--rm", "-e", "DATASET_PATH=/load/bench/mix.lua", "benchmark")
        assert mismatch.returncode != 0
    finally:
        command("down", "--timeout", "5")

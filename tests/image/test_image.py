"""The service's image: run as a team would, looked into, and stopped."""

import json
import os
import re
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import trustme

from bench import oracle
from tests.support.certificates import issue
from tests.support.container import GIB, HARDENED, SERVICE_IMAGE, Container, Run, built, docker, mounts, running
from tests.support.ports import free_ports
from tests.support.processes import ROOT, pasted, wait_until

pytestmark = pytest.mark.container


def test_no_mounts_serve_the_bundled_dataset_and_a_self_signed_pair(run: Run) -> None:
    container = run(*HARDENED, "--tmpfs", "/tmp").ready()  # noqa: S108 - the container's
    assert container.get("/json/5?m=3").content == oracle.body(5, 3)
    assert "a self-signed one was made for this run, as asked" in container.logs
    container.stop()


def test_a_mount_that_came_out_empty_is_no_reason_for_another_pair(run: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # the image has a user of its own
    container = run("-e", "SELF_SIGNED=", "-v", f"{tmp_path}:/certs:ro")
    wait_until(lambda: container.inspect("{{.State.Running}}") == "false", "its end")
    assert container.inspect("{{.State.ExitCode}}") == "2"
    assert "there is no pair: /certs/server.crt and /certs/server.key are missing; put" in container.logs
    assert container.logs.count("\n") == 1


def test_no_place_for_a_self_signed_pair_is_reported(run: Run) -> None:
    container = run(*HARDENED)
    wait_until(lambda: container.inspect("{{.State.Running}}") == "false", "its end")
    assert container.inspect("{{.State.ExitCode}}") == "2"
    assert container.logs.count("\n") == 1
    assert "--tmpfs /tmp" in container.logs


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_an_unreadable_key_is_rejected(run: Run, arena_dataset: Path, arena_certs: Path) -> None:
    (arena_certs / "server.key").chmod(0o600)
    container = run(*mounts(arena_dataset, arena_certs))
    wait_until(lambda: container.inspect("{{.State.Running}}") == "false", "its end")
    assert container.inspect("{{.State.ExitCode}}") == "2"
    assert "tls.key=/certs/server.key may not be read by uid 65532, mode 0600" in container.logs
    assert container.logs.count("\n") == 1


def test_it_serves_json_alone_on_two_ports(run: Run) -> None:
    container = run().ready()
    assert container.get("/json/2?m=9").content == oracle.body(2, 9)
    for target in ("/pipeline", "/baseline11?a=1&b=1", "/delay/0"):
        assert container.get(target).status_code == 404
    assert "json-h2c" not in container.logs
    assert re.findall(r"(\d+)/tcp", container.inspect("{{.Config.ExposedPorts}}")) == ["8080", "8081"]


def test_arguments_are_those_of_the_command(run: Run, image: str, arena_certs: Path) -> None:
    """`docker run IMAGE --check` says what would be served, and notes the ports of what serves beside it."""
    mounted = ("run", "--rm", "--network", "host", "-v", f"{arena_certs}:/certs:ro")
    port, tls_port = map(str, free_ports(2))
    ports = ("-e", f"PORT={port}", "-e", f"TLS_PORT={tls_port}")
    secure, plain, dataset = docker(*mounted, *HARDENED, *ports, image, "--check").splitlines()
    assert secure.startswith(f"json-tls: https://0.0.0.0:{tls_port} HTTP/1.1 over TLS 1.3")
    assert "(/certs/server.crt, /certs/server.key)" in secure
    assert plain.startswith(f"json: http://0.0.0.0:{port} ")
    assert dataset == "dataset: 50 items"
    beside = run("-v", f"{arena_certs}:/certs:ro").ready()
    ports = ("-e", f"PORT={beside.port}", "-e", f"TLS_PORT={beside.tls_port}")
    noted = docker(*mounted, *ports, image, "--check")
    assert noted.count("; all is well if an instance of this service holds it\n") == 2
    assert docker(*mounted, "-e", "PORT=http", image, "--check", check=False).startswith("configuration: PORT=")
    assert docker("run", "--rm", "--network", "none", image, "--help").startswith("usage: python -m app ")
    beside.stop()


@pytest.mark.parametrize("options", [("--tty",), ("--tty", "--init")], ids=["terminal", "terminal and init"])
def test_sighup_reloads_in_a_container_with_a_terminal(run: Run, options: tuple[str, ...]) -> None:
    """There it would end a launcher that was started by hand, as the terminal may be gone."""
    container = run(*options).ready()
    docker("kill", "--signal", "HUP", container.identity)
    wait_until(lambda: "nothing that can be reloaded has changed" in container.logs, "the reload")
    container.stop()


def test_labels_say_what_it_was_built_from(image: str) -> None:
    labels = {"version": "1.2.3", "revision": "0123abc", "source": "https://example.org/granian-json"}
    built_with = [part for name, value in labels.items() for part in ("--build-arg", f"{name.upper()}={value}")]
    for name, expected in (
        (image, dict.fromkeys(labels, "unknown")),
        (built(f"{SERVICE_IMAGE}-labels", *built_with, "--target", "service", "."), labels),
    ):
        found = json.loads(docker("image", "inspect", "-f", "{{json .Config.Labels}}", name))
        assert {label: found[f"org.opencontainers.image.{label}"] for label in labels} == expected
        assert found["org.opencontainers.image.title"] == "granian-json"
    docker("image", "rm", f"{SERVICE_IMAGE}-labels")


@pytest.mark.usefixtures("image")
def test_the_base_image_is_an_argument() -> None:
    """Of another name here: a digest is a registry's to look up, and the tests need none."""
    base = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("ARG BASE="))
    other, name = f"{SERVICE_IMAGE}-base", f"{SERVICE_IMAGE}-rebased"
    docker("tag", base.removeprefix("ARG BASE="), other)
    try:
        built(name, "--build-arg", f"BASE={other}", "--target", "service", ".")
        assert "usage: " in docker("run", "--rm", "--network", "none", name, "--help")
        missing = docker("build", "--build-arg", f"BASE={other}-missing", ".", check=False)
        assert f"{other}-missing" in missing
    finally:
        docker("image", "rm", other, name, check=False)


def test_the_curl_lines_work_outside(run: Run, arena_certs: Path) -> None:
    for options in (("-v", f"{arena_certs}:/certs:ro"), ("--init", "-v", f"{arena_certs}:/certs:ro"), ()):
        container = run(*options).ready()
        wait_until(lambda: container.logs.count("\n  curl ") == 2, "both lines")  # noqa: B023 - called here
        for line in re.findall(r"^  curl .+", container.logs, re.MULTILINE):
            assert not re.search(r" /(certs|tmp)|cacert", line)
            assert pasted(line) == oracle.body(5, 3)
        container.stop()


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
    assert command.startswith("['granian-json: launcher'")
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


@pytest.mark.parametrize(("image_run", "listeners", "bound"), [("run", 2, GIB), ("run_arena", 3, GIB * 3 // 2)])
def test_64_workers_fit_into_a_gibibyte(
    request: pytest.FixtureRequest, image_run: str, listeners: int, bound: int
) -> None:
    """A gibibyte for the two listeners of HTTP/1.1, half of one for the arena's third."""
    container = request.getfixturevalue(image_run)("-e", "WORKERS=64").ready()
    processes = 1 + listeners + listeners * 64
    wait_until(
        lambda: len(docker("top", container.identity, "-eo", "pid").splitlines()) == processes + 1, "all workers", 30
    )
    time.sleep(2)  # no condition to wait for: workers that started last become idle
    used = memory(container)
    print(f"64 workers each of {listeners} listeners, idle: {used / 2**20:.0f} MiB")
    assert used <= bound
    container.stop()


def test_a_pair_of_an_authority_is_verified(run: Run, tmp_path: Path, arena_certs: Path) -> None:
    authority = trustme.CA()
    issue(authority, arena_certs)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    container = run(*HARDENED, "-v", f"{arena_certs}:/certs:ro").ready()
    url = f"https://localhost:{container.tls_port}/json/7?m=2"
    assert httpx.get(url, verify=context, trust_env=False).content == oracle.body(7, 2)
    assert tmp_path.exists()
    container.stop()


@pytest.mark.usefixtures("image")
def test_an_application_of_ones_own_goes_on_top() -> None:
    name = built(f"{SERVICE_IMAGE}-own", "--build-arg", f"SERVICE={SERVICE_IMAGE}", "examples")
    with running(name, "PORT", "TLS_PORT") as start:
        container = start(*HARDENED, "--tmpfs", "/tmp").ready()  # noqa: S108 - the container's
        assert container.get("/hello/Ada?greeting=Hi").json() == {"message": "Hi, Ada!"}
        assert container.get("/json/2").status_code == 404
        container.stop()


def test_the_compose_benchmark_loads_the_service(image: str, tmp_path: Path) -> None:
    assert image
    docker("build", "--network", "host", "--target", "service", "-t", "granian-json", ".", timeout=900)
    docker("build", "--network", "host", "-t", "granian-json-benchmark", "-f", "bench/Dockerfile", ".", timeout=900)
    port, tls_port = map(str, free_ports(2))
    variables = {"PORT": port, "TLS_PORT": tls_port, "DURATION": "1", "CONNECTIONS": "64"}
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

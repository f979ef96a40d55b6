"""The start: order, printed lines, ports, and the limit on open files."""

import json
import os
import re
import resource
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from app.launcher.console import curl
from app.settings import certificate, config
from app.settings.config import PairFiles
from app.settings.files import NamedFile
from bench import oracle
from tests.support.certificates import write_self_signed
from tests.support.configuration import SERVER_TOML, configured
from tests.support.processes import ROOT, clean_environment, pasted, wait_until
from tests.support.service import Launch, Service, with_free_ports


def test_a_limit_on_the_size_of_files_hinders_no_start_without_tls(launch: Launch, tmp_path: Path) -> None:
    """`ulimit -f 0`: not what a trial of the application finds; the list for the container's health check is left out."""
    head = SERVER_TOML.partition("[[listener]]")[0]
    argument = configured(tmp_path, head + '[[listener]]\nname = "json"\nport = 8080\nport_variable = "PORT"\n')
    application = {"APPLICATION": "tests.support.applications:app", "WORKERS": "1"}
    service = launch(argument, wrapper=("sh", "-c", 'ulimit -f 0; exec "$@"', "sh"), **application)

    def responds() -> bool:
        assert service.process.poll() is None
        try:
            return httpx.get(f"{service.url}/close", trust_env=False).text == "bye"
        except httpx.TransportError:  # not yet
            return False

    wait_until(responds, "a response")
    service.stop()


def test_each_listener_is_described_on_a_line(service: Service) -> None:
    lines = service.output.read_text().splitlines()
    named = [line.partition(":")[0] for line in lines[::2]]
    assert named == [each.name for each in service.listeners]
    (tls, plain), (tls_curl, plain_curl) = (
        [lines[2 * named.index(name) + offset] for name in ("json-tls", "json")] for offset in (0, 1)
    )
    assert re.fullmatch(
        rf"json-tls: https://127\.0\.0\.1:{service.tls_port} HTTP/1\.1 over TLS 1\.3, ALPN http/1\.1, 2 workers;"
        r" certificate for localhost, 127\.0\.0\.1 \(.*server\.crt, .*server\.key\);"
        r" SHA-256 [0-9a-f]{64}; expires \d{4}-\d\d-\d\d \d\d:\d\d UTC; records encrypted in user space",
        tls,
    )
    assert plain == f"json: http://127.0.0.1:{service.port} HTTP/1.1, plaintext, no ALPN, 2 workers"
    assert tls_curl.startswith("  curl --cacert " if os.getpid() > 1 else "  curl --insecure --pinnedpubkey ")
    assert plain_curl.startswith("  curl 'http")


def test_the_curl_lines_work_when_pasted(service: Service, launch: Launch) -> None:
    own = launch().ready()
    arena = launch(APPLICATION="app.service.arena:app", WORKERS="1").ready()
    for each in (service, own, arena):
        lines = [line for line in each.output.read_text().splitlines() if line.startswith("  curl ")]
        assert len(lines) == len(each.listeners)
        for line in lines:
            assert pasted(line) == oracle.body(5, 3)
    own.stop()
    arena.stop()


@pytest.mark.parametrize("name", ["a b", "*", "[x]", "-k", "a#b", "b[1-3].example", "a%41", "*.example.org", "a_b"])
def test_the_curl_line_works_whatever_name_a_certificate_has(launch: Launch, tmp_path: Path, name: str) -> None:
    files = write_self_signed(tmp_path, ec.generate_private_key(ec.SECP256R1()), common_name=name)
    service = launch(**files, WORKERS="1").ready()
    line = service.output.read_text().splitlines()[1]
    assert ("--pinnedpubkey" in line) == (name not in {"*.example.org", "a_b"} or os.getpid() <= 1)
    assert pasted(line) == oracle.body(5, 3)
    service.stop()


@pytest.mark.parametrize("starter", [0, 1])
def test_what_init_has_started_names_no_file_of_its_own(
    service: Service, monkeypatch: pytest.MonkeyPatch, starter: int
) -> None:
    """A container's files, or a unit's credentials, are not where the line is pasted."""
    files = (NamedFile(name, Path(service.environment[name])) for name in ("TLS_CERT", "TLS_KEY"))
    pair = certificate.load(PairFiles(*files))
    configuration = config.read(config.path_of(None, {}), service.environment)
    monkeypatch.setattr(os, "getppid", lambda: starter)
    line = curl(configuration.server, configuration.listeners[0], pair, "/json/5?m=3")
    assert not any(str(each) in line for each in (service.environment["TLS_CERT"], "cacert"))
    assert pasted(line) == oracle.body(5, 3)
    assert (before := line.replace(pair.pin, pair.fingerprint)) != line
    assert "public key" in subprocess.run(["sh", "-c", before], capture_output=True, text=True, check=False).stderr


def test_tls_responds_before_plaintext_does(launch: Launch, pair: dict[str, str], trust: ssl.SSLContext) -> None:
    service = launch(**pair)

    def plaintext_responds() -> bool:
        try:
            return httpx.get(f"{service.url}/json/1", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(plaintext_responds, "a response on the plaintext port", 30)
    assert httpx.get(f"{service.tls_url}/json/1", verify=trust, trust_env=False).content == oracle.body(1, 1)
    service.ready().stop()


def test_a_second_launcher_reports_the_taken_port(launch: Launch, pair: dict[str, str]) -> None:
    first = launch(**pair).ready()
    second = launch(**(pair | {"PORT": str(first.port), "TLS_PORT": str(first.tls_port)}))
    assert second.wait(20) == 2
    assert (
        f"TLS_PORT={first.tls_port} cannot be bound on 127.0.0.1 (Address already in use)" in second.errors.read_text()
    )
    assert first.process.poll() is None
    first.stop()


def test_a_low_limit_on_open_files_is_raised_and_a_low_hard_limit_reported(
    launch: Launch, pair: dict[str, str]
) -> None:
    service = launch(**pair).ready()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    worker = service.workers(service.server_process_of("json-tls"))[0]
    assert resource.prlimit(worker, resource.RLIMIT_NOFILE) == (hard, hard)
    service.stop()
    limited = subprocess.run(
        ["sh", "-c", f"ulimit -Sn 200; ulimit -Hn 300; exec {sys.executable} -m app --check"],
        cwd=ROOT,
        env=with_free_ports(clean_environment() | pair),
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 0
    assert "the hard limit is 300: each worker keeps 252 connections" in limited.stderr


FULL = 'mount -t tmpfs -o size=8k tmpfs "$TMPDIR" && { head -c 100000 /dev/zero > "$TMPDIR/all" 2>&-; true; }'
NO_INODE_LEFT = 'mount -t tmpfs -o nr_inodes=2 tmpfs "$TMPDIR"'


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        ("true", "there is no folder for the self-signed pair's authority"),
        (FULL, "there is no folder for the self-signed pair's authority"),
        (NO_INODE_LEFT, "the self-signed pair's authority cannot be written to"),
    ],
    ids=["read-only", "full", "no inode left"],
)
def test_no_disk_for_the_self_signed_pair_is_exit_2_with_one_line(tmp_path: Path, prepare: str, said: str) -> None:
    """In a mount namespace of its own; Python would fall back on other folders, so all else is read-only."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to a mount namespace, hence to a file system that is full or read-only")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    script = (
        "cut -d' ' -f2 /proc/mounts | while read -r each; do mount -o remount,bind,ro \"$each\" 2>&-; done;"
        f' {prepare} && exec "$@"'
    )
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "app", configured(tmp_path)],
        cwd=ROOT,
        env=with_free_ports(clean_environment() | {"TMPDIR": str(temporary), "SELF_SIGNED": "1"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert said in result.stderr
    assert "set TLS_CERT and TLS_KEY" in result.stderr
    assert list(temporary.iterdir()) == []


def test_a_changed_dataset_or_server_toml_has_no_effect_until_a_reload(
    launch: Launch, pair: dict[str, str], tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset.json"
    shutil.copy(oracle.BUNDLED, dataset)
    config = configured(tmp_path)
    service = launch(config, DATASET_PATH=str(dataset), WORKERS="1", **pair).ready()
    said = service.output.read_text()
    items = json.loads(dataset.read_text())
    items[0]["price"] += 1
    dataset.write_text(json.dumps(items[:7]))
    server_toml = tmp_path / "server.toml"
    server_toml.write_text(server_toml.read_text().replace("[server]", "[nothing of ours]"))

    def body() -> bytes:
        return httpx.get(f"{service.url}/json/50?m=2", trust_env=False).content

    assert body() == oracle.body(50, 2)
    assert (service.output.read_text(), service.errors.read_text()) == (said, "")
    server_process = service.server_process_of("json")
    (worker,) = service.workers(server_process)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: service.workers(server_process) not in ([], [worker]), "a new worker")
    assert body() == oracle.body(50, 2)
    service.stop()
    configured(tmp_path)
    again = launch(config, DATASET_PATH=str(dataset), **pair).ready()
    assert httpx.get(f"{again.url}/json/50?m=2", trust_env=False).content == oracle.body(7, 2, dataset)
    again.stop()


@pytest.mark.parametrize("arguments", [["--serve"], ["--config"], ["--serve", "--check"]])
def test_log_format_counts_from_the_first_line(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "app", *arguments]
    environment = clean_environment() | {"LOG_FORMAT": "json"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert result.returncode == 2
    if "--check" in arguments:  # which speaks to people
        assert result.stderr.startswith("configuration: ")
    else:
        record = json.loads(result.stderr)
        assert record["level"] == "ERROR"
        assert record["message"].startswith("configuration: ")


def test_a_mistake_on_the_command_line_is_exit_2_with_one_line() -> None:
    for module in ("app", "app.launcher.probe"):
        for arguments in (["--nonsense"], ["--config"]):
            command = [sys.executable, "-m", module, *arguments]
            result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
            assert result.returncode == 2
            assert len(result.stderr.splitlines()) == 1
            assert f"see python -m {module} --help" in result.stderr

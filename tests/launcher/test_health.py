"""The container's health check asks what the launcher lists: with a bare interpreter, as the image runs it."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from app.launcher import health
from app.launcher.listing import Listing
from app.settings import config
from tests.support.clients import configuration, write_authorities
from tests.support.configuration import SERVER_TOML, configured
from tests.support.ports import free_port
from tests.support.processes import ROOT, freeze, wait_until
from tests.support.service import Launch, Service

LISTENERS = config.read(config.path_of(None, {}), {"SELF_SIGNED": "1"}).listeners


def health_check(pid: int) -> tuple[int, str]:
    """Return the exit status and the lines of the check of the launcher `pid`."""
    command = [sys.executable, "-I", "-S", str(ROOT / "app/launcher/health.py"), str(pid)]
    result = subprocess.run(command, env={}, capture_output=True, text=True, timeout=30, check=False)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::1"])  # noqa: S104 - it is connected to
def test_it_asks_every_listener_at_the_ports_that_variables_have_set(
    launch: Launch, pair: dict[str, str], host: str
) -> None:
    service = launch(HOST=host, H2C_PORT=str(free_port()), WORKERS="1", **pair).ready()
    assert health_check(service.process.pid) == (0, "")
    for listener, workers in zip(service.listeners, service.all_workers(), strict=True):
        freeze(*workers)
        assert health_check(service.process.pid) == (1, f"listener {listener.name} does not respond\n")
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        wait_until(lambda: health_check(service.process.pid) == (0, ""), "its response")
    service.stop()
    assert health_check(service.process.pid) == (1, "no launcher lists its listeners\n")


def test_listeners_that_have_not_started_yet_are_asked_too(
    launch: Launch, pair: dict[str, str], tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.touch()
    service = launch(WORKERS="1", APPLICATION="tests.support.applications:held", HOLD=str(held), **pair)
    wait_until(lambda: health_check(service.process.pid)[1] != "no launcher lists its listeners\n", "a list", 20)
    assert health_check(service.process.pid)[1].splitlines()[-1] == "listener json does not respond"
    held.unlink()
    service.ready().stop()


def test_it_asks_as_a_reload_has_it(launch: Launch, pair_folder: Path, tmp_path: Path) -> None:
    text = SERVER_TOML.replace("certs/", f"{pair_folder}/")
    service = launch(configured(tmp_path, text), WORKERS="1").ready()
    tls = text[text.index("[listener.tls]") : text.index("# client_authority")]
    configured(tmp_path, text + tls)
    service.signal(signal.SIGHUP)
    wait_until(lambda: service.errors.path.read_text().count(" reloaded: ") == 1, "json over TLS", 20)
    wait_until(lambda: health_check(service.process.pid) == (0, ""), "responses over TLS")
    service.stop()


def test_of_a_listener_that_needs_certificates_it_expects_to_be_refused(
    launch: Launch, pair_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    for name in ("server.crt", "server.key"):
        (folder / name).write_bytes((pair_folder / name).read_bytes())
    write_authorities(folder, trustme.CA())
    service = launch(configured(tmp_path, configuration()), WORKERS="1").ready()
    assert health_check(service.process.pid) == (0, "")
    service.stop()


def test_the_list_is_what_is_served_now() -> None:
    listing = Listing()
    for listeners in (LISTENERS, (replace(LISTENERS[0], name="a b"),)):  # the second is shorter
        listing.write(("::", each) for each in listeners)
        kinds = [health.HTTPS if each.tls else health.HTTP for each in listeners]
        assert health.listed([str(os.getpid())]) == [
            f"{kind} ::1 {each.port} {each.name}" for kind, each in zip(kinds, listeners, strict=True)
        ]
    listing.write([("::", replace(LISTENERS[0], name="a\nb"))])
    assert len(health.listed([str(os.getpid())])) == 1
    listing.close()
    assert health.listed([str(os.getpid())]) == []


def test_a_sandbox_without_files_in_memory_is_served_in(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def denied(_: str) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", denied)
    listing = Listing()
    listing.write([("127.0.0.1", LISTENERS[0])])
    listing.close()
    assert "the container's health check will fail" in capfd.readouterr().err


def test_it_is_the_images_health_check(service: Service) -> None:
    (line,) = [each for each in (ROOT / "Dockerfile").read_text().splitlines() if each.startswith("HEALTHCHECK ")]
    assert line.endswith(' CMD ["python", "-I", "-S", "/app/launcher/health.py"]')
    assert health_check(service.process.pid) == (0, "")

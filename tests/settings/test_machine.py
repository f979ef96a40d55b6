"""A machine that lacks what a start needs: the check says so on one line."""

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.launcher.descriptors import connection_limit
from app.settings import config
from tests.support.configuration import SERVER_TOML, configured, rejected
from tests.support.processes import ROOT, clean_environment, wait_until
from tests.support.service import with_free_ports


def run_check(*wrapper: str, arguments: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*wrapper, sys.executable, "-m", "app", "--check", *arguments],
        cwd=ROOT,
        env=with_free_ports(clean_environment() | {"PYTHONDONTWRITEBYTECODE": "1", "SELF_SIGNED": "1"} | environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def possible(*command: str) -> bool:
    return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0


def test_all_addresses_without_a_loopback_are_reported() -> None:
    if not possible("unshare", "--net"):
        pytest.skip("no right to a network namespace")
    result = run_check("unshare", "--net", HOST="::")
    assert result.returncode == 2
    assert "HOST=::: this machine cannot reach it at ::1 (" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
@pytest.mark.parametrize("script", ["", "ip link set lo up && ip link set lo down && "], ids=["never up", "down again"])
def test_a_loopback_that_is_down_is_reported(host: str, script: str) -> None:
    if not possible("unshare", "--net", *(["ip", "-V"] if script else [])):
        pytest.skip("no right to a network namespace, or no ip(8)")
    result = run_check("unshare", "--net", "sh", "-c", f'{script}exec "$@"', "sh", HOST=host)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"HOST={host}: this machine cannot reach it at 127.0.0.1 (" in result.stderr
    assert result.stderr.endswith("); bring up lo\n")
    assert result.stderr.count("\n") == 1


def test_a_path_that_the_locale_cannot_write_is_reported(tmp_path: Path) -> None:
    argument = configured(tmp_path, SERVER_TOML.replace("certs/server.crt", "\u00fc.crt"))
    result = run_check("env", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", "LC_ALL=C", arguments=[argument])
    assert (result.returncode, result.stdout) == (2, "")
    assert "cannot be written in this locale (ascii); set LC_ALL=C.UTF-8" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_check_that_is_interrupted_has_not_passed(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "import pathlib, time\npathlib.Path(__file__ + '.begun').touch()\ntime.sleep(3600)\n"
    )
    for preload in ("true", "false"):
        environment = {"APPLICATION": "endless:app", "APPLICATION_PRELOAD": preload, "PYTHONPATH": str(tmp_path)}
        with subprocess.Popen(
            [sys.executable, "-m", "app", "--check"],
            cwd=ROOT,
            env=with_free_ports(clean_environment() | {"SELF_SIGNED": "1"} | environment),
        ) as process:
            wait_until((tmp_path / "endless.py.begun").exists, "the import")
            process.terminate()
            assert process.wait(10) == 1
        (tmp_path / "endless.py.begun").unlink()


def test_a_port_that_is_not_permitted_is_not_held_by_anything() -> None:
    without = ("setpriv", "--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service")
    try:
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 1))
        if not possible(*without):
            pytest.skip("no right to give up a capability")
        result = run_check(*without, PORT="1")
    except PermissionError:  # as it is for most users
        result = run_check(PORT="1")
    assert result.returncode == 2
    assert "PORT=1 cannot be bound on 127.0.0.1 (Permission denied); choose a port from 1024 on, or" in result.stderr


def test_no_proc_is_reported() -> None:
    if not possible("unshare", "--mount"):
        pytest.skip("no right to a mount namespace")
    result = run_check("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "configuration: /proc/self/statm cannot be read (No such file or directory); mount /proc\n"
    )


@pytest.mark.parametrize("error", ["MemoryError", 'ImportError("libz.so: failed to map segment from shared object")'])
def test_want_of_memory_for_the_imports_is_one_line(tmp_path: Path, error: str) -> None:
    (tmp_path / "trustme.py").write_text(f"raise {error}\n")
    result = run_check(PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "configuration: not enough memory to start; raise the limit (ulimit -v, -d)\n"


def test_a_missing_library_is_no_want_of_memory(tmp_path: Path) -> None:
    (tmp_path / "trustme.py").write_text('raise ImportError("no such library")\n')
    result = run_check(PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.endswith("ImportError: no such library\n")


def test_limits_that_may_not_be_asked_for_or_set_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a seccomp profile."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (min(soft, 1000), hard + 1))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    configuration = config.read(config.path_of(None, {}), {"SELF_SIGNED": "1", "WORKERS": "1"})
    connections, _ = connection_limit(configuration)
    assert connections < min(soft, 1000)


def test_a_number_with_more_digits_than_are_allowed_is_rejected(tmp_path: Path) -> None:
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        line = rejected(configured(tmp_path, SERVER_TOML.replace("port = 8080", f"port = 0x{'f' * 900}")))
    finally:
        sys.set_int_max_str_digits(digits)
    assert "server.toml: listener[2].port: " in line

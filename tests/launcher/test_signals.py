"""Signals that the launcher gets, and that must not end it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import trustme

from bench import oracle
from tests.support.certificates import issue
from tests.support.configuration import configured, with_certificate_interval
from tests.support.ports import free_ports
from tests.support.processes import ROOT, clean_environment, freeze
from tests.support.service import Launch


def test_an_ignored_sigchld_hinders_no_import_of_an_application() -> None:
    """It is tried in a child process, before the service starts."""
    result = subprocess.run(
        ["env", "--ignore-signal=CHLD", sys.executable, "-m", "app", "--check"],
        cwd=ROOT,
        env=clean_environment()
        | {"APPLICATION": "examples.hello:app", "SELF_SIGNED": "1"}
        | dict(zip(("PORT", "TLS_PORT"), map(str, free_ports(2)), strict=True)),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr


def test_a_launcher_that_is_stopped_beyond_its_next_look_goes_on(
    launch: Launch, authority: trustme.CA, tmp_path: Path
) -> None:
    issue(authority, tmp_path / "certs")
    service = launch(configured(tmp_path, with_certificate_interval(1))).ready()
    for _ in range(2):
        freeze(service.process.pid)
        time.sleep(1.2)  # beyond the time-out of its wait, which is what is tried
        os.kill(service.process.pid, signal.SIGCONT)
        assert httpx.get(f"{service.url}/json/5?m=3", trust_env=False).content == oracle.body(5, 3)
        assert service.process.poll() is None, service.report()
    service.stop()
    assert service.errors.read_text() == ""

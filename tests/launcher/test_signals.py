"""Signals that the launcher gets, and that must not end it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trustme

from bench import oracle
from tests.support.certificates import issue
from tests.support.configuration import configured, with_certificate_interval
from tests.support.processes import ROOT, clean_environment, freeze, has_signal, wait_until
from tests.support.service import Launch, with_free_ports
from tests.support.wrappers import with_outputs


def test_an_ignored_sigchld_hinders_no_import_of_an_application() -> None:
    """It is tried in a child process, before the service starts."""
    result = subprocess.run(
        ["env", "--ignore-signal=CHLD", sys.executable, "-m", "app", "--check"],
        cwd=ROOT,
        env=with_free_ports(clean_environment() | {"APPLICATION": "examples.hello:app", "SELF_SIGNED": "1"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr


def test_the_signals_of_applications_do_not_end_a_launcher_that_starts(
    launch: Launch, tmp_path: Path, pair: dict[str, str]
) -> None:
    (tmp_path / "late.py").write_text(
        "import pathlib, time\n"
        "here = pathlib.Path(__file__).parent\n(here / 'begun').touch()\n"
        "while not (here / 'go').exists():\n    time.sleep(0.01)\n"
        "from tests.support.applications import app\n"
    )
    service = launch(APPLICATION="late:app", PYTHONPATH=str(tmp_path), WORKERS="1", **pair)
    wait_until((tmp_path / "begun").exists, "the import")
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        service.signal(number)
    (tmp_path / "go").touch()
    service.ready()
    service.stop()


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


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """A terminal, which ends when its first half is closed, and the path of its other half."""
    master, slave = os.openpty()
    path = os.ttyname(slave)
    os.close(slave)
    yield master, path
    with suppress(OSError):  # the test has closed it
        os.close(master)


def test_it_ends_with_the_terminal_that_it_was_started_from(launch: Launch, terminal: tuple[int, str]) -> None:
    """A session's leader gets the first terminal that it opens."""
    with_hangup = ("env", "--default-signal=HUP")  # whoever started the tests may have ignored it, as nohup does
    service = launch(wrapper=(*with_hangup, *with_outputs(f"< {terminal[1]}"))).ready()
    os.close(terminal[0])
    assert service.wait() == 0
    service.gone()


def test_with_nohup_it_outlives_its_terminal(launch: Launch, terminal: tuple[int, str]) -> None:
    service = launch(wrapper=("env", "--ignore-signal=HUP", *with_outputs(f"< {terminal[1]}"))).ready()
    os.close(terminal[0])
    wait_until(lambda: not has_signal(service.process.pid, signal.SIGHUP, "SigPnd", "ShdPnd"), "the signal's end")
    assert httpx.get(f"{service.url}/json/1", trust_env=False).status_code == 200
    service.stop()
    assert "a second signal asked to stop" not in service.errors.read_text()

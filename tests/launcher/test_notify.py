"""What arrives on systemd's socket."""

import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.processes import ROOT, wait_until
from tests.support.service import Launch


@pytest.mark.parametrize("abstract", [False, True])
def test_the_states_arrive_in_order(launch: Launch, tmp_path: Path, abstract: bool) -> None:  # noqa: FBT001
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + path[1:] if abstract else path)
        systemd.settimeout(30)
        service = launch(NOTIFY_SOCKET="@" + path[1:] if abstract else path)
        assert systemd.recv(100) == b"READY=1"
        service.ready()
        service.signal(signal.SIGHUP)
        assert systemd.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert systemd.recv(100) == b"READY=1"
        service.stop()
        assert systemd.recv(100) == b"STOPPING=1"


def test_a_socket_that_is_not_there_is_reported_and_no_more(launch: Launch, tmp_path: Path) -> None:
    service = launch(NOTIFY_SOCKET=str(tmp_path / "absent")).ready()
    service.stop()
    assert "absent cannot be written to (No such file or directory)" in service.errors.read_text()


def test_a_state_waits_for_room_in_systemds_queue(launch: Launch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)  # noqa: FBT003 - socket's signature
            with suppress(BlockingIOError):
                while True:
                    other.sendto(b"WATCHDOG=1", systemd.getsockname())
        service = launch(NOTIFY_SOCKET=systemd.getsockname())
        wait_until(lambda: "all listeners respond" in service.report(), "the start")
        systemd.settimeout(30)
        while systemd.recv(100) != b"READY=1":
            pass
        service.ready().stop()


def test_a_preloaded_application_that_unsets_the_socket_hinders_nothing(launch: Launch, tmp_path: Path) -> None:
    """As sd_notify(3) does if it is asked to."""
    (tmp_path / "unsetting.py").write_text(
        "import os\ndel os.environ['NOTIFY_SOCKET']\nfrom tests.support.applications import app\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path := str(tmp_path / "notify"))
        systemd.settimeout(30)
        service = launch(
            APPLICATION="unsetting:app",
            APPLICATION_PRELOAD="true",
            PYTHONPATH=f"{tmp_path}:{ROOT}",
            NOTIFY_SOCKET=path,
            WORKERS="1",
        )
        assert systemd.recv(100) == b"READY=1"
        service.ready().stop()
        assert systemd.recv(100) == b"STOPPING=1"

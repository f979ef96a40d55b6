"""Outputs that fail: the service starts, renews, rejects and stops as if they did not."""

import os
import signal
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from bench import oracle
from tests.support.certificates import issue, leaf_of, served_leaf
from tests.support.configuration import configured, with_certificate_interval
from tests.support.http1 import get_on_new_connection
from tests.support.processes import ROOT, wait_until
from tests.support.service import Launch
from tests.support.wrappers import with_outputs


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe, and a reader's end of it that does not wait."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    yield path, reader
    with suppress(OSError):  # the test has closed it
        os.close(reader)


@pytest.mark.parametrize("kind", ["full", "closed", "nobody reads", "reader goes away"])
def test_an_output_that_fails_changes_nothing(
    launch: Launch,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    tmp_path: Path,
    fifo: tuple[Path, int],
    kind: str,
) -> None:
    path, reader = fifo
    redirections = {"full": ">/dev/full 2>&1", "closed": "<&- >&- 2>&-"}.get(kind, f">{path} 2>&1")
    if kind == "nobody reads":
        with suppress(BlockingIOError):
            while True:
                os.write(reader, b"." * 4096)
    folder = issue(authority, tmp_path / "certs")
    configuration = configured(tmp_path, with_certificate_interval(0))
    service = launch(configuration, wrapper=with_outputs(redirections), WORKERS="1").responding()
    if kind == "reader goes away":
        os.close(reader)
    (folder / "server.key").write_bytes(b"nothing")
    service.signal(signal.SIGHUP)
    (worker,) = service.workers(service.server_process_of("json"))
    os.kill(worker, signal.SIGKILL)  # Granian's log has a line about that
    issue(authority, folder)
    service.signal(signal.SIGHUP)
    wait_until(lambda: served_leaf(service, trust) == leaf_of(folder), "the new leaf")
    assert get_on_new_connection(service, None, 10) == oracle.body(3, 2)
    service.stop()


@pytest.mark.parametrize("redirection", ["> /dev/full", "2> /dev/full"])
def test_what_a_preloaded_application_prints_to_a_full_disk_hinders_no_worker(
    launch: Launch, tmp_path: Path, redirection: str
) -> None:
    stream = "stderr" if redirection.startswith("2") else "stdout"
    (tmp_path / "printing.py").write_text(
        f"import sys\nsys.{stream}.write('loading ')\nfrom tests.support.applications import app\n"
    )
    service = launch(
        wrapper=with_outputs(redirection),
        APPLICATION="printing:app",
        APPLICATION_PRELOAD="true",
        PYTHONPATH=f"{tmp_path}:{ROOT}",
        WORKERS="1",
    )
    service.responding().stop()


def test_what_a_preloaded_application_prints_is_written_once(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "printing.py").write_text("print('loading')\nfrom tests.support.applications import app\n")
    service = launch(APPLICATION="printing:app", APPLICATION_PRELOAD="true", PYTHONPATH=f"{tmp_path}:{ROOT}").ready()
    service.stop()
    assert service.output.read_text().count("loading") == 1

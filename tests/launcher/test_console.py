"""Lines on an output that fails: dropped, counted, and never waited for."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from app.launcher.console import curl
from app.launcher.output import PIPE_BUF, Output, printable
from app.settings import certificate, config
from app.settings.config import PairFiles
from app.settings.files import NamedFile
from tests.support.certificates import write_self_signed
from tests.support.processes import ROOT


@dataclass
class Pipe:
    """A pipe whose end for writing does not wait."""

    reader: int
    writer: int

    def fill(self) -> int:
        """Write until nothing more fits; return how many bytes that were."""
        written = 0
        try:
            while True:
                written += os.write(self.writer, b"." * PIPE_BUF)
        except BlockingIOError:
            return written

    def read(self) -> str:
        try:
            return os.read(self.reader, 2**20).decode()
        except BlockingIOError:
            return ""


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    made = Pipe(reader, writer)
    yield made
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError as error:  # the test has closed it
            assert error.errno == errno.EBADF  # noqa: PT017


def test_lines_that_nobody_reads_are_counted_in_the_next_that_is_written(pipe: Pipe) -> None:
    output = Output(pipe.writer)
    filled = pipe.fill()
    os.set_blocking(pipe.writer, True)  # as an output is: a write would wait for ever
    for _ in range(3):
        output.line("lost")
    assert os.read(pipe.reader, filled) == b"." * filled
    output.line("found")
    output.line("next")
    assert pipe.read() == "(3 lines before this one could not be written)\nfound\nnext\n"


def test_lines_of_a_closed_output_are_counted(pipe: Pipe) -> None:
    output = Output(pipe.writer)
    kept = os.dup(pipe.writer)
    os.close(pipe.writer)
    output.line("lost")
    os.dup2(kept, pipe.writer)
    os.close(kept)
    output.line("found")
    assert pipe.read() == "(1 lines before this one could not be written)\nfound\n"


def test_a_reader_that_goes_away_raises_nothing(pipe: Pipe) -> None:
    output = Output(pipe.writer)
    os.close(pipe.reader)
    output.line("lost")
    assert output.dropped == 1


def test_a_line_after_a_torn_one_begins_on_a_line_of_its_own(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills takes a part of a line."""
    output = Output(pipe.writer)
    write = os.write

    def write_a_part(descriptor: int, data: bytes) -> int:
        if data.startswith(b"first"):
            return write(descriptor, data[:5])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as context:
        context.setattr(os, "write", write_a_part)
        output.line("first")
    output.line("second")
    assert pipe.read() == "first\n(1 lines before this one could not be written)\nsecond\n"


PRINT = """
import os, sys
from app.launcher.output import open_standard_streams
if os.getuid() == 0:
    os.setuid(65534)  # so that it may not open the pipe anew
open_standard_streams()
sys.exit("a line")
"""


@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_no_process_waits_for_an_output_that_cannot_be_opened_anew(kind: str) -> None:
    """As a worker that has a traceback to print: stderr is a journal's socket, or another user's pipe."""
    if kind == "pipe" and os.getuid() != 0:
        pytest.skip("no right to become another user")
    reader, writer = (each.detach() for each in socket.socketpair()) if kind == "socket" else os.pipe()
    try:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"." * PIPE_BUF)
        os.set_blocking(writer, True)
        command = [sys.executable, "-c", PRINT]
        assert subprocess.run(command, cwd=ROOT, stderr=writer, check=False, timeout=10).returncode != 0
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("full", ["/dev/full", "/dev/null"])
def test_a_device_is_written_to_or_counted(full: str) -> None:
    descriptor = os.open(full, os.O_WRONLY)
    output = Output(descriptor)
    output.line("a line")
    os.close(descriptor)
    assert output.dropped == (full == "/dev/full")


def test_what_breaks_a_line_or_cannot_be_written_is_escaped(pipe: Pipe) -> None:
    assert printable("a\nb\x1b[0m\0\u2028") == r"a\nb\x1b[0m\x00\u2028"
    Output(pipe.writer).line("\udcff\u00e9")  # a name on disk that is no UTF-8
    assert pipe.read() == "\\udcff\u00e9\n"


def test_no_name_of_a_certificate_runs_in_the_shell_that_the_curl_line_is_pasted_into(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    files = write_self_signed(tmp_path, key, common_name="a'; touch ran; echo '.org")
    pair = certificate.load(PairFiles(*(NamedFile(name, Path(path)) for name, path in files.items())))
    configuration = config.read(config.path_of(None, {}), {"SELF_SIGNED": "1"})
    line = curl(configuration.server, configuration.listeners[0], pair, "/json/5?m=3")
    subprocess.run(["sh", "-c", f"curl() {{ :; }}; {line}"], cwd=tmp_path, check=True)
    assert not (tmp_path / "ran").exists()

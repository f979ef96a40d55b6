"""server.toml written for a test, and what `python -m app --check` says about it."""

import os
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from app.settings import start
from bench.listeners import ENABLED
from tests.support.ports import free_ports
from tests.support.processes import ROOT, clean_environment

SERVER_TOML = (ROOT / "server.toml").read_text()
NAMES = [each.port_variable for each in ENABLED if each.port_variable]


def configured(folder: Path, text: str = SERVER_TOML) -> str:
    """Write a server.toml into a folder without a default pair beside it; return the argument that names it."""
    path = folder / "server.toml"
    path.write_text(text)
    return f"--config={path}"


def with_certificate_interval(seconds: int) -> str:
    """Return the text of a server.toml that has changed pairs looked for so often; 0 is never."""
    assert "certificate_interval = 5" in SERVER_TOML
    return SERVER_TOML.replace("certificate_interval = 5", f"certificate_interval = {seconds}")


def with_web_sockets(text: str = SERVER_TOML) -> str:
    """Return the text of a server.toml whose enabled listeners have WebSockets, and as many connections as fit here."""
    changed, listeners = re.subn(
        rf"^port_variable = \"({'|'.join(NAMES)})\"$", r"\g<0>\nwebsockets = true", text, flags=re.MULTILINE
    )
    assert listeners == len(NAMES)
    return changed.replace("backpressure = 16384", "backpressure = 4096")


@dataclass(frozen=True)
class Checked:
    """How a check ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


Check = Callable[..., Checked]


def check(*arguments: str, **environment: str) -> Checked:
    """Run the command `python -m app --check` in this process: a new interpreter would take most of the time.

    What it changes of the process (blocked signals, the limit on open files) is put back.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    ports = dict(zip(NAMES, map(str, free_ports(len(NAMES))), strict=True))
    variables = clean_environment() | ports | {"SELF_SIGNED": "1"} | environment
    try:
        from app.__main__ import main  # noqa: PLC0415 - blocks signals when it is imported

        with (
            mock.patch.dict(os.environ, variables, clear=True),
            mock.patch.object(sys, "argv", ["app", "--check", *arguments]),
            mock.patch.object(start, "_taken", None),
            _written(1) as output,
            _written(2) as errors,
        ):
            status = main()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return Checked(status, output[0], errors[0])


@contextmanager
def _written(descriptor: int) -> Iterator[list[str]]:
    """Collect what is written to a descriptor of this process; a list of one text afterwards."""
    content: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = os.dup(descriptor)
        os.dup2(file.fileno(), descriptor)
        try:
            yield content
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)
            file.seek(0)
            content.append(file.read().decode())


def rejected(*arguments: str, **environment: str) -> str:
    """Check that a configuration is rejected with exit status 2 and one line, and return the line."""
    result = check(*arguments, **environment)
    assert result.returncode == 2, result
    assert result.stderr.startswith("configuration: ")
    assert result.stderr.count("\n") == 1
    return result.stderr

"""rustls itself is asked about a pair: what it rejects is rejected before a worker would end with a panic."""

import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import trustme

from app.launcher import pair_trial
from app.launcher.pair_trial import Tls, why_rejected
from app.settings.sealed_file import SealedFile
from tests.support import configuration
from tests.support.certificates import in_place, issue, leaf_of, served_leaf
from tests.support.configuration import configured, with_certificate_interval
from tests.support.processes import wait_until
from tests.support.service import Launch

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


def write_unusual(folder: Path, form: str) -> dict[str, str]:
    """Write a pair whose public key, a point on P-256, is in that form, which OpenSSL reads and rustls does not; return the variables that name it."""
    folder.mkdir(exist_ok=True)
    for command in (
        ["openssl", "ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", "usual.key"],
        ["openssl", "ec", "-in", "usual.key", "-conv_form", form, "-out", "server.key"],
        ["openssl", "req", "-x509", "-key", "server.key", "-subj", "/CN=localhost", "-days", "9", "-out", "server.crt"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return {"TLS_CERT": str(folder / "server.crt"), "TLS_KEY": str(folder / "server.key")}


def tls_of(folder: Path) -> Tls:
    files = [str(SealedFile.of((folder / name).read_bytes())) for name in ("server.crt", "server.key")]
    return (True, *files, None, "tls1.3", None, [], False)


@needs_openssl
@pytest.mark.parametrize("form", ["compressed", "hybrid"])
def test_a_pair_that_rustls_alone_rejects_is_rejected(tmp_path: Path, form: str) -> None:
    files = write_unusual(tmp_path / "certs", form)
    line = configuration.rejected(**files)
    assert f"TLS_CERT={files['TLS_CERT']} and " in line
    assert f"TLS_KEY={files['TLS_KEY']} are rejected by rustls (InconsistentKeys(KeyMismatch)); have both made" in line


def test_a_pair_that_rustls_accepts_is_accepted(pair_folder: Path) -> None:
    assert why_rejected(lambda: tls_of(pair_folder)) is None


def test_what_rustls_cannot_parse_is_rejected_with_its_reason(pair_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pair_folder, tmp_path / "certs"))
    (folder / "server.crt").write_bytes(ssl.DER_cert_to_PEM_cert(b"nothing").encode())
    assert why_rejected(lambda: tls_of(folder)) == "InvalidCertificate(BadEncoding)"


@pytest.mark.parametrize("fails", [os.abort, lambda: os._exit(3), lambda: 1 / 0], ids=["SIGABRT", "exit", "exception"])
def test_a_trial_that_fails_otherwise_rejects_nothing(fails: Callable[[], NoReturn]) -> None:
    assert why_rejected(fails) is None


def test_a_trial_that_does_not_end_rejects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_trial, "PATIENCE", 0.1)
    begun = time.monotonic()

    def stall() -> NoReturn:
        time.sleep(60)
        raise AssertionError

    assert why_rejected(stall) is None
    assert time.monotonic() - begun < 10


def test_want_of_a_process_is_reported_by_the_check(monkeypatch: pytest.MonkeyPatch, pair: dict[str, str]) -> None:
    def fork() -> NoReturn:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    line = configuration.rejected(**pair)
    assert "its pair cannot be tried (Resource temporarily unavailable); raise the limit on processes" in line


@needs_openssl
def test_a_replaced_pair_that_rustls_rejects_is_one_line_and_starts_nothing(
    launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    folder = issue(authority, tmp_path / "certs")
    service = launch(configured(tmp_path, with_certificate_interval(1))).ready()
    server_processes, old = service.server_processes, leaf_of(folder)
    other = tmp_path / "other"
    write_unusual(other, "compressed")
    for name in ("server.crt", "server.key"):
        in_place(other / name, folder / name)
    wait_until(lambda: "are rejected by rustls" in service.errors.read_text(), "a line about it", 10)
    time.sleep(3)  # no condition to wait for: nothing more may be said
    (line,) = service.errors.read_text().splitlines()
    assert "; the pair from before is served on" in line
    assert service.server_processes == server_processes
    assert served_leaf(service, trust) == old
    issue(authority, folder)
    wait_until(lambda: served_leaf(service, trust) == leaf_of(folder), "the pair that is right again", 10)
    service.stop()

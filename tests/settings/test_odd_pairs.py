"""Certificates and keys that the parsers disagree about, or warn of: one line, or served without a word."""

import os
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from app.settings import files
from tests.support.certificates import write_self_signed
from tests.support.configuration import check, rejected


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_an_ed25519_seed_of_another_length_is_no_key(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pair = write_self_signed(tmp_path, key)
    seed = bytes.fromhex("302d020100300506032b65700421041f") + bytes(31)
    pem = ssl.DER_cert_to_PEM_cert(seed).replace("CERTIFICATE", "PRIVATE KEY")
    Path(pair["TLS_KEY"]).write_text(pem)
    assert f"TLS_KEY={pair['TLS_KEY']} is not a PEM private key" in rejected(**pair)


def test_a_common_name_that_is_no_text_cannot_be_read(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pair = write_self_signed(tmp_path, key)
    path = Path(pair["TLS_CERT"])
    der = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    path.write_text(ssl.DER_cert_to_PEM_cert(der.replace(b"\x0c\x09localhost", b"\x03\x09\0ocalhost")))
    assert f"TLS_CERT={path} cannot be read (oid must be" in rejected(**pair)


@pytest.mark.usefixtures("warnings_are_errors")
@pytest.mark.parametrize("name", ["", "x" * 65], ids=["empty", "long"])
def test_a_name_that_cryptography_warns_of_is_served(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey, name: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair = write_self_signed(tmp_path, key, common_name=name)
    result = check(**pair)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_default_value_that_is_written_out_is_named(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    ca_false = x509.UnrecognizedExtension(x509.OID_BASIC_CONSTRAINTS, b"0\3\1\1\0")
    pair = write_self_signed(tmp_path, key, critical=ca_false)
    assert "): an extension has a default value written out, which DER leaves out; have it" in rejected(**pair)


def test_a_trusted_certificate_is_named(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pair = write_self_signed(tmp_path, key)
    path = Path(pair["TLS_CERT"])
    path.write_text(path.read_text().replace("CERTIFICATE", "TRUSTED CERTIFICATE"))
    assert f"TLS_CERT={path} has a TRUSTED CERTIFICATE, a form of OpenSSL's own; write it as" in rejected(**pair)


@pytest.mark.parametrize("around", ["# -----BEGIN CERTIFICATE-----\n", "\ufeff", " "], ids=["comment", "mark", "space"])
def test_what_is_around_a_certificate_is_no_certificate(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey, around: str
) -> None:
    pair = write_self_signed(tmp_path, key)
    path = Path(pair["TLS_CERT"])
    whole = path.read_text()
    path.write_text(around + whole + around)
    assert check(**pair).returncode == 0
    path.write_text(whole + around + whole[:200])
    assert "has a certificate that is cut short" in rejected(**pair)


def test_a_file_that_has_nothing_now_is_not_waited_for(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/kmsg does, which calls itself a regular file."""
    pair = write_self_signed(tmp_path, key)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    opened = files._without_waiting  # noqa: SLF001 - no other file is so
    monkeypatch.setattr(
        files, "_without_waiting", lambda path, flags: reader if path.endswith(".key") else opened(path, flags)
    )
    assert f"TLS_KEY={pair['TLS_KEY']} cannot be read (it would wait); give" in rejected(**pair)
    os.close(writer)


def test_a_self_signed_pair_that_openssl_rejects_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> NoReturn:
        error = ssl.SSLError()
        error.reason = "EE_KEY_TOO_SMALL"
        raise error

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load)
    line = rejected()
    assert "a pair made for this run is rejected by OpenSSL (EE_KEY_TOO_SMALL); correct OpenSSL's configuration" in line


def test_an_empty_config_is_named() -> None:
    assert "configuration: --config is empty; give the path of a server.toml" in rejected("--config=")

"""Pairs that OpenSSL accepts and rustls does not: rejected before a worker would end with a panic."""

import datetime as dt
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.settings.certificate import self_signed
from tests.support.certificates import issue, write_self_signed
from tests.support.configuration import rejected


@pytest.mark.parametrize(("exponent", "bits"), [(3, 2048), (65537, 2560), (65537, 3000)])
def test_other_rsa_keys_are_rejected(tmp_path: Path, exponent: int, bits: int) -> None:
    key = rsa.generate_private_key(exponent, bits)
    assert "use RSA of 2048, 3072 or 4096 bits" in rejected(**write_self_signed(tmp_path, key))


def test_an_unknown_critical_extension_is_rejected(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (tmp_path / "server.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    line = rejected(TLS_CERT=str(tmp_path / "server.crt"), TLS_KEY=str(tmp_path / "server.key"))
    assert "has critical extensions (1.3.6.1.5.5.7.1.24), which rustls does not accept" in line


def test_a_chain_that_is_cut_short_is_rejected(authority: trustme.CA, tmp_path: Path) -> None:
    folder = issue(authority, tmp_path / "certs")
    with (folder / "server.crt").open("ab") as file:
        file.write(authority.cert_pem.bytes()[:200])
    line = rejected(TLS_CERT=str(folder / "server.crt"), TLS_KEY=str(folder / "server.key"))
    assert "has a certificate that is cut short; write all of it" in line


def test_a_host_name_that_is_no_dns_name_is_left_out_of_the_pair(tmp_path: Path) -> None:
    names = ["localhost", "my_host", "-x-", "a" * 64, "a..b", "(none)", "127.0.0.1"]
    assert self_signed(names, tmp_path).names == ["localhost", "127.0.0.1"]

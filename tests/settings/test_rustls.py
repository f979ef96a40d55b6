"""Pairs that OpenSSL accepts and rustls does not: rejected before a worker would end with a panic."""

from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.settings.certificate import self_signed
from tests.support.certificates import issue, write_self_signed
from tests.support.configuration import rejected


@pytest.mark.parametrize(("exponent", "bits"), [(3, 2048), (65537, 2560), (65537, 3000)])
def test_other_rsa_keys_are_rejected(tmp_path: Path, exponent: int, bits: int) -> None:
    key = rsa.generate_private_key(exponent, bits)
    assert "use RSA of 2048, 3072 or 4096 bits" in rejected(**write_self_signed(tmp_path, key))


def test_an_unknown_critical_extension_is_rejected(tmp_path: Path) -> None:
    extension = x509.TLSFeature([x509.TLSFeatureType.status_request])
    pair = write_self_signed(tmp_path, ec.generate_private_key(ec.SECP256R1()), critical=extension)
    assert "has critical extensions (1.3.6.1.5.5.7.1.24), which rustls does not accept" in rejected(**pair)


def test_a_chain_that_is_cut_short_is_rejected(authority: trustme.CA, tmp_path: Path) -> None:
    folder = issue(authority, tmp_path / "certs")
    with (folder / "server.crt").open("ab") as file:
        file.write(authority.cert_pem.bytes()[:200])
    line = rejected(TLS_CERT=str(folder / "server.crt"), TLS_KEY=str(folder / "server.key"))
    assert "has a certificate that is cut short; write all of it" in line


def test_a_host_name_that_is_no_dns_name_is_left_out_of_the_pair(tmp_path: Path) -> None:
    names = ["localhost", "my_host", "-x-", "a" * 64, "a..b", "(none)", "127.0.0.1"]
    assert self_signed(names, tmp_path).names == ["localhost", "127.0.0.1"]

"""The TLS listener in handshakes: versions, suites, ALPN, and the certificate."""

import hashlib
import ssl
from pathlib import Path

import httpx
import pytest

from tests.support.certificates import handshake, leaf_of
from tests.support.service import Service


def test_tls_is_1_3_with_an_aead(service: Service, trust: ssl.SSLContext) -> None:
    with handshake(service, trust) as connection:
        assert connection.version() == "TLSv1.3"
        cipher = connection.cipher()
        assert cipher is not None
        assert cipher[0] in ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256")


def test_tls_1_2_is_rejected(service: Service, authority_context: ssl.SSLContext) -> None:
    authority_context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        handshake(service, authority_context)


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), ([], None)]
)
def test_alpn_is_http_1_1(
    service: Service, authority_context: ssl.SSLContext, offered: list[str], chosen: str | None
) -> None:
    if offered:
        authority_context.set_alpn_protocols(offered)
    with handshake(service, authority_context) as connection:
        assert connection.selected_alpn_protocol() == chosen


def test_alpn_h2_alone_is_rejected(service: Service, authority_context: ssl.SSLContext) -> None:
    authority_context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        handshake(service, authority_context)


def test_the_served_leaf_is_the_files(service: Service, trust: ssl.SSLContext, pair_folder: Path) -> None:
    leaf = leaf_of(pair_folder)
    with handshake(service, trust) as connection:
        assert connection.getpeercert(binary_form=True) == leaf
    assert hashlib.sha256(leaf).hexdigest() in service.output.read_text()


def test_the_certificate_is_valid_for_its_names_alone(service: Service, trust: ssl.SSLContext) -> None:
    handshake(service, trust, "127.0.0.1").close()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(service, trust, "example.org")


def test_plaintext_on_the_tls_port_gets_no_response(service: Service) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://127.0.0.1:{service.tls_port}/json/1", trust_env=False)

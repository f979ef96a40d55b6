"""The image run and validated as the arena does."""

import json
import random
import re
import socket
import ssl
import time
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.support.container import ARENA, HARDENED, Run, mounts

pytestmark = pytest.mark.container


def pinned(certificate: Path) -> ssl.SSLContext:
    """Trust that certificate and nothing else; the arena's has no alternative names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)
    context.check_hostname = False
    return context


@pytest.mark.parametrize("options", [ARENA, HARDENED], ids=["arena", "hardened"])
def test_the_arenas_validation(run: Run, arena_dataset: Path, arena_certs: Path, options: tuple[str, ...]) -> None:
    container = run(*options, *mounts(arena_dataset, arena_certs)).ready()
    print(f"first response {time.monotonic() - container.begin:.2f} s after docker run")
    context = pinned(arena_certs / "server.crt")
    context.set_alpn_protocols(["http/1.1"])
    # 8081 is probed as soon as 8080 responds, without waiting.
    with (
        socket.create_connection(("127.0.0.1", container.tls_port), timeout=5) as plain,
        context.wrap_socket(plain) as connection,
    ):
        leaf = connection.getpeercert(binary_form=True)
        assert leaf is not None
        mounted = x509.load_pem_x509_certificate((arena_certs / "server.crt").read_bytes())
        assert x509.load_der_x509_certificate(leaf).fingerprint(hashes.SHA256()) == mounted.fingerprint(hashes.SHA256())
        assert connection.version() == "TLSv1.3"
        assert re.search("GCM|POLY1305", str(connection.cipher()))
        assert connection.selected_alpn_protocol() == "http/1.1"
    dataset = json.loads(arena_dataset.read_text(encoding="utf-8"))
    with httpx.Client(verify=context, trust_env=False) as client:
        del client.headers["accept-encoding"]  # httpx offers gzip of its own accord
        for url in (f"http://127.0.0.1:{container.port}", f"https://localhost:{container.tls_port}"):
            assert client.get(f"{url}/json/1").json()["count"] == 1
            for _ in range(20):
                count, multiplier = random.randint(1, 50), random.randint(2, 89)
                response = client.get(f"{url}/json/{count}?m={multiplier}")
                assert response.http_version == "HTTP/1.1"
                assert "application/json" in response.headers["content-type"]
                assert "content-encoding" not in response.headers
                page = response.json()
                assert page["count"] == len(page["items"]) == count
                for served, item in zip(page["items"], dataset, strict=False):
                    assert served == {**item, "total": item["price"] * item["quantity"] * multiplier}
                    assert type(served["total"]) is int
    container.stop()


def test_the_arenas_validation_of_compressed_bodies(run: Run, arena_dataset: Path, arena_certs: Path) -> None:
    container = run(*ARENA, *mounts(arena_dataset, arena_certs)).ready()
    dataset = json.loads(arena_dataset.read_text(encoding="utf-8"))
    offered = {"accept-encoding": "gzip, br"}
    for count in (25, 40, 50, random.randint(1, 50)):
        target, multiplier = f"/json/{count}", random.randint(2, 89)
        response = httpx.get(
            f"http://127.0.0.1:{container.port}{target}?m={multiplier}", headers=offered, trust_env=False
        )
        assert (response.status_code, response.http_version) == (200, "HTTP/1.1")
        if count >= 25:
            assert response.headers["content-encoding"] in {"gzip", "br"}
            assert int(response.headers["content-length"]) < len(response.content) / 3
        totals = [item["price"] * item["quantity"] * multiplier for item in dataset[:count]]
        assert [item["total"] for item in response.json()["items"]] == totals
    assert (
        "content-encoding"
        not in httpx.get(
            f"http://127.0.0.1:{container.port}/json/50?m=2", headers={"accept-encoding": ""}, trust_env=False
        ).headers
    )
    container.stop()


def test_the_arenas_validation_of_http2_in_cleartext(run: Run, arena_dataset: Path, arena_certs: Path) -> None:
    container = run(*ARENA, *mounts(arena_dataset, arena_certs)).ready()
    url = f"http://127.0.0.1:{container.h2c_port}"
    dataset = json.loads(arena_dataset.read_text(encoding="utf-8"))
    with httpx.Client(http1=False, http2=True, trust_env=False) as client:
        for _ in range(20):
            count, multiplier = random.randint(1, 50), random.randint(2, 89)
            response = client.get(f"{url}/json/{count}?m={multiplier}")
            assert response.http_version == "HTTP/2"
            for served, item in zip(response.json()["items"], dataset[:count], strict=True):
                assert served == {**item, "total": item["price"] * item["quantity"] * multiplier}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/json/1", trust_env=False)
    container.stop()

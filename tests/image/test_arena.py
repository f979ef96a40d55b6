"""The arena's image run and validated as the arena does: a function for each profile of meta.json."""

import json
import random
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.support import arena
from tests.support.container import ARENA, HARDENED, Container, Run, mounts
from tests.support.http1 import read_bodies
from tests.support.http2 import Client
from tests.support.processes import ROOT

pytestmark = pytest.mark.container
META = json.loads((ROOT / "meta.json").read_text())


@dataclass
class Entry:
    """A container of the arena's image, and what is mounted into it."""

    container: Container
    dataset: list[dict[str, Any]]
    certificate: Path

    @property
    def context(self) -> ssl.SSLContext:
        """Trust the mounted certificate and nothing else; the arena's has no alternative names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.certificate)
        context.check_hostname = False
        context.set_alpn_protocols(["http/1.1"])
        return context

    @property
    def h2c_url(self) -> str:
        return f"http://127.0.0.1:{self.container.h2c_port}"

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.container.port), timeout=20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def connect_tls(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.container.tls_port), timeout=20)
        return self.context.wrap_socket(plain)

    def check_page(self, page: dict[str, Any], count: int, multiplier: int) -> None:
        """Compare a page with the mounted items, field by field."""
        assert page["count"] == len(page["items"]) == count
        for served, item in zip(page["items"], self.dataset, strict=False):
            assert served == {**item, "total": item["price"] * item["quantity"] * multiplier}
            assert type(served["total"]) is int


def baseline(entry: Entry) -> None:
    arena.check_sums(entry.connect)


def limited_conn(entry: Entry) -> None:
    arena.check_short_connections(entry.connect)


def asynchronous(entry: Entry) -> None:
    arena.check_delays(entry.connect, 500)


def latency(entry: Entry) -> None:
    """Send a request every few milliseconds, in turn on the connections that a worker of 64 would have."""
    with ExitStack() as stack:
        connections = [stack.enter_context(entry.connect()) for _ in range(16)]
        for index in range(160):
            arena.respond_to(connections[index % 16], arena.of_target("/baseline11?a=1&b=2", b"3"))
            time.sleep(1 / 160)


def json_tls(entry: Entry) -> None:
    with entry.connect_tls() as connection:
        leaf = connection.getpeercert(binary_form=True)
        assert leaf is not None
        mounted = x509.load_pem_x509_certificate(entry.certificate.read_bytes())
        assert x509.load_der_x509_certificate(leaf).fingerprint(hashes.SHA256()) == mounted.fingerprint(hashes.SHA256())
        assert connection.version() == "TLSv1.3"
        assert re.search("GCM|POLY1305", str(connection.cipher()))
        assert connection.selected_alpn_protocol() == "http/1.1"
    with httpx.Client(verify=entry.context, trust_env=False) as client:
        del client.headers["accept-encoding"]  # httpx offers gzip of its own accord
        for url in (f"http://127.0.0.1:{entry.container.port}", f"https://localhost:{entry.container.tls_port}"):
            assert client.get(f"{url}/json/1").json()["count"] == 1
            for _ in range(20):
                count, multiplier = random.randint(1, 50), random.randint(2, 89)
                response = client.get(f"{url}/json/{count}?m={multiplier}")
                assert response.http_version == "HTTP/1.1"
                assert "application/json" in response.headers["content-type"]
                assert "content-encoding" not in response.headers
                entry.check_page(response.json(), count, multiplier)


def eight_gigabits(entry: Entry) -> None:
    for connect in (entry.connect_tls, entry.connect):
        arena.check_echoes(connect)
        arena.check_too_large(connect)


def baseline_h2c(entry: Entry) -> None:
    with httpx.Client(base_url=entry.h2c_url, http1=False, http2=True, trust_env=False) as client:
        for _ in range(20):
            a, b = arena.number(), arena.number()
            response = client.get(f"/baseline2?a={a}&b={b}")
            assert (response.status_code, response.http_version, response.text) == (200, "HTTP/2", str(a + b))
            assert "text/plain" in response.headers["content-type"]
    multiplexed = Client(entry.container.h2c_port)
    sums = {multiplexed.request(f"/baseline2?a=1&b={b}"): b"%d" % (1 + b) for b in range(100)}
    multiplexed.until_whole(sums)
    assert multiplexed.bodies == sums
    multiplexed.close()
    refuse_http1(entry)


def pipelined(entry: Entry) -> None:
    arena.check_pipelined(entry.connect, arena.an_ok)
    arena.check_pipelined(entry.connect, arena.a_sum)


def json_comp(entry: Entry) -> None:
    url = f"http://127.0.0.1:{entry.container.port}"
    for count in (25, 40, 50, random.randint(1, 50)):
        target, multiplier = f"/json/{count}", random.randint(2, 89)
        offered = {"accept-encoding": "gzip, br"}
        response = httpx.get(f"{url}{target}?m={multiplier}", headers=offered, trust_env=False)
        assert (response.status_code, response.http_version) == (200, "HTTP/1.1")
        if count >= 25:
            assert response.headers["content-encoding"] in {"gzip", "br"}
            assert int(response.headers["content-length"]) < len(response.content) / 3
        entry.check_page(response.json(), count, multiplier)
    plain = httpx.get(f"{url}/json/50?m=2", headers={"accept-encoding": ""}, trust_env=False)
    assert "content-encoding" not in plain.headers


def json_h2c(entry: Entry) -> None:
    with httpx.Client(base_url=entry.h2c_url, http1=False, http2=True, trust_env=False) as client:
        for _ in range(20):
            count, multiplier = random.randint(1, 50), random.randint(2, 89)
            response = client.get(f"/json/{count}?m={multiplier}")
            assert response.http_version == "HTTP/2"
            entry.check_page(response.json(), count, multiplier)
    refuse_http1(entry)


def refuse_http1(entry: Entry) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{entry.h2c_url}/json/1", trust_env=False)


STEPS: dict[str, Callable[[Entry], None]] = {
    "baseline": baseline,
    "limited-conn": limited_conn,
    "async": asynchronous,
    "latency-10k": latency,
    "json-tls": json_tls,
    "8gbit": eight_gigabits,
    "baseline-h2c": baseline_h2c,
    "pipelined": pipelined,
    "json-comp": json_comp,
    "json-h2c": json_h2c,
}


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("options", [ARENA, HARDENED], ids=["arena", "hardened"])
def test_every_profile_of_meta_json(
    run_arena: Run, arena_dataset: Path, arena_certs: Path, options: tuple[str, ...]
) -> None:
    container = run_arena(*options, *mounts(arena_dataset, arena_certs)).ready()
    print(f"first response {time.monotonic() - container.begin:.2f} s after docker run")
    # 8081 is probed as soon as 8080 responds, without waiting; the others are, too.
    entry = Entry(container, json.loads(arena_dataset.read_text(encoding="utf-8")), arena_certs / "server.crt")
    entry.connect_tls().close()
    for profile in META["tests"]:
        begin = time.monotonic()
        STEPS[profile](entry)
        print(f"{profile}: {time.monotonic() - begin:.1f} s")
    container.stop()
    said = [line for line in container.logs.splitlines() if " INFO - " not in line]
    assert len(said) == 6  # a line and a curl line for each listener


def test_no_plaintext_profile_needs_a_mounted_pair(run_arena: Run) -> None:
    entry = Entry(run_arena(*ARENA).ready(), [], ROOT)
    assert "a self-signed one was made for this run, as asked" in entry.container.logs
    with entry.connect() as connection:
        exchange = arena.a_sum()
        connection.sendall(exchange.request)
        assert read_bodies(connection, 1) == [exchange.body]
    baseline_h2c(entry)
    entry.container.stop()

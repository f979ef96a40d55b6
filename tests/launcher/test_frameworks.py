"""Starlette and FastAPI behind the launcher, on all listeners."""

import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import trustme

from tests.support.certificates import issue
from tests.support.configuration import SERVER_TOML, configured, with_certificate_interval, with_web_sockets
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.service import Launch, Service
from tests.support.web_sockets import WebSocket

HERE = "tests.support.frameworks"
UPLOAD = 20 * 2**20
CLIENTS = 4
RENEWALS = int(os.environ.get("RENEWALS", "1"))


@pytest.fixture(params=["starlette", "fast_api"])
def framework(
    request: pytest.FixtureRequest, launch: Launch, pair: dict[str, str], tmp_path: Path
) -> Iterator[Service]:
    """A running application, on three listeners."""
    service = launch(
        configured(tmp_path, with_web_sockets(SERVER_TOML)),
        APPLICATION=f"{HERE}:{request.param}",
        NOTES=str(tmp_path / "notes"),
        H2C_PORT=str(free_port()),
        WORKERS="1",
        **pair,
    ).ready()
    yield service
    service.stop()
    notes = (tmp_path / "notes").read_text().splitlines()
    assert notes.count("startup") == notes.count("shutdown") == len(service.listeners)


def test_what_a_framework_does_works_on_all_listeners(
    framework: Service, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    body = os.urandom(UPLOAD)
    counted = f"{UPLOAD} {sum(body) % 2**32}"
    for url, http2 in ((framework.url, False), (framework.tls_url, False), (framework.h2c_url, True)):
        with httpx.Client(
            base_url=url, verify=trust, trust_env=False, http1=not http2, http2=http2, timeout=30
        ) as client:
            item = client.get("/items/7", params={"q": "a b"}).json()
            assert (item["number"], item["q"]) == (7, "a b")
            assert re.fullmatch(r"of \d+", item["state"])
            assert client.get("/items/seven").status_code in {404, 422}
            assert client.post("/upload", content=body).text == counted
            assert client.get("/stream/20").text == "".join(f"{number}\n" for number in range(20))
            with client.stream("GET", "/events/5") as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                assert [line for line in response.iter_lines() if line] == [f"data: {number}" for number in range(5)]
            assert client.get("/background").text == "later"
            failed = client.get("/fail")
            assert failed.status_code == 500
            assert "secret" not in failed.text
    error = "ValueError: a secret of the application's"
    wait_until(lambda: framework.errors.read_text().count(error) == 3, "the errors in the log")
    wait_until(lambda: (tmp_path / "notes").read_text().count("done in the background") == 3, "background tasks")
    for scheme, port, context in (("ws", framework.port, None), ("wss", framework.tls_port, trust)):
        with WebSocket(f"{scheme}://localhost:{port}/chat", context) as web_socket:
            for text in ("one", "two", "x" * 100_000):
                web_socket.send(text)
                assert web_socket.recv() == text


@pytest.mark.long
@pytest.mark.parametrize("runs", ["loop", "inline"])
def test_renewals_under_load_fail_no_request(
    launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path, runs: str
) -> None:
    """RENEWALS=30 makes the long form of it: a renewal takes 11.5 s, in which the process before it is drained."""
    certs = issue(authority, tmp_path / "certs", "localhost", "127.0.0.1")
    service = launch(
        configured(tmp_path, with_certificate_interval(1)),
        APPLICATION=f"{HERE}:starlette",
        APPLICATION_RUNS=runs,
        TLS_CERT=str(certs / "server.crt"),
        TLS_KEY=str(certs / "server.key"),
    ).ready()
    ended = False

    def load(make: Callable[[], httpx.Client]) -> int:
        number = 0
        while not ended:
            with make() as client:  # a handshake for every ten requests
                for _ in range(10):
                    number += 1
                    assert client.get(f"/items/{number}", params={"q": "x"}).json()["number"] == number
                    time.sleep(0.05)  # the rest of the machine is for other tests
        return number

    def client() -> httpx.Client:
        return httpx.Client(base_url=service.tls_url, verify=trust, trust_env=False, timeout=30)

    with ThreadPoolExecutor(CLIENTS) as threads:
        futures = [threads.submit(load, client) for _ in range(CLIENTS)]
        try:
            for renewals in range(1, RENEWALS + 1):
                issue(authority, certs, "localhost", "127.0.0.1")
                wait_until(lambda: service.errors.path.read_text().count("renewed: ") == renewals, "a renewal", 40)  # noqa: B023
            wait_until(
                lambda: len(service.server_processes) == len(service.listeners), "the end of the last predecessor", 40
            )
        finally:
            ended = True
        assert all(each.result() > 10 for each in futures)
    service.stop()
    assert service.errors.read_text() == ""


def test_the_example_works(launch: Launch, pair: dict[str, str], trust: ssl.SSLContext) -> None:
    service = launch(APPLICATION="examples.hello:app", **pair).ready()
    for url in (service.url, service.tls_url):
        response = httpx.get(f"{url}/hello/Ada", params={"greeting": "Good day"}, verify=trust, trust_env=False)
        assert response.json() == {"message": "Good day, Ada!"}
    service.stop()

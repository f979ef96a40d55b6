"""Any ASGI application behind the launcher: what it gets, inline and on the loop, and how it is drained."""

import asyncio
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest
import trustme
import websockets

from app.launcher.draining import CLOSE_NOTICE
from app.launcher.scheduling import REFUSALS
from tests.support.certificates import issue
from tests.support.configuration import SERVER_TOML, configured, with_certificate_interval, with_web_sockets
from tests.support.http1 import read_response
from tests.support.ports import free_port, is_free
from tests.support.processes import ROOT, have_been_read, is_running, wait_until
from tests.support.service import Launch, Service
from tests.support.web_sockets import WebSocket

HERE = "tests.support.applications"
MEBIBYTE = 2**20


@pytest.fixture
def start(launch: Launch, pair: dict[str, str], tmp_path: Path) -> Callable[..., Service]:
    """Start the launcher with an application; its notes are in the file `notes`."""

    def start(target: str = "app", *arguments: str, **environment: str) -> Service:
        variables = {"APPLICATION": f"{HERE}:{target}", "NOTES": str(tmp_path / "notes")} | pair | environment
        return launch(*arguments, **variables)

    return start


@pytest.fixture
def noted(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: (tmp_path / "notes").read_text().splitlines() if (tmp_path / "notes").exists() else []


@pytest.fixture(params=["loop", "inline"])
def runs(request: pytest.FixtureRequest) -> str:
    """Both ways to run an application."""
    return str(request.param)


@pytest.fixture
def client(trust: ssl.SSLContext) -> Iterator[httpx.Client]:
    with httpx.Client(verify=trust, trust_env=False, timeout=30) as made:
        yield made


def test_what_asgi_gives_an_application(
    start: Callable[..., Service], noted: Callable[[], list[str]], client: httpx.Client, runs: str
) -> None:
    service = start(APPLICATION_RUNS=runs, H2C_PORT=str(free_port())).ready()
    assert noted().count("startup") == 6  # two workers of each of three listeners
    for url in (service.url, service.tls_url):
        assert client.get(f"{url}/state").text.startswith("of ")
        for size in (0, 1, 70_000, 20 * MEBIBYTE):
            body = os.urandom(size)
            assert client.post(f"{url}/echo", content=body).content == body

        def chunks() -> Iterator[bytes]:
            yield from (b"abc" * 1000, b"", b"def" * 50_000)

        assert client.post(f"{url}/echo", content=chunks()).content == b"abc" * 1000 + b"def" * 50_000
        with client.stream("GET", f"{url}/stream?4") as response:
            assert list(response.iter_text()) == ["0\n", "1\n", "2\n", "3\n"]
        response = client.get(f"{url}/raise")
        assert response.status_code == 500
        assert b"secret" not in response.content
    error = "ValueError: a secret of the application's"
    wait_until(lambda: service.errors.read_text().count(error) == 2, "the errors in the log")
    service.stop()
    assert noted().count("shutdown") == 6


def test_a_client_that_goes_away_is_reported_to_the_application(
    start: Callable[..., Service], noted: Callable[[], list[str]], runs: str
) -> None:
    service = start(APPLICATION_RUNS=runs).ready()
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"GET /disconnect HTTP/1.1\r\nhost: localhost\r\n\r\n")
        wait_until(lambda: "asked" in noted(), "the request")
    wait_until(lambda: "http.disconnect" in noted(), "the disconnect")
    service.stop()


def test_inline_what_may_not_wait_is_a_500_and_one_line(start: Callable[..., Service], client: httpx.Client) -> None:
    service = start(APPLICATION_RUNS="inline", WORKERS="1").ready()
    for _ in range(REFUSALS):
        assert client.get(f"{service.url}/sleep").status_code == 500
    assert client.get(f"{service.url}/hop?1").text == "1"
    (line,) = service.errors.read_text().splitlines()
    assert re.search(r'/applications\.py:\d+: an application that runs inline may not wait there .*runs = "loop"', line)
    service.stop()


def test_inline_a_request_goes_on_where_its_body_is_read(
    start: Callable[..., Service], client: httpx.Client, noted: Callable[[], list[str]]
) -> None:
    service = start(APPLICATION_RUNS="inline", WORKERS="1", H2C_PORT=str(free_port())).ready()
    with httpx.Client(trust_env=False, http1=False, http2=True) as over_http2:
        assert over_http2.post(f"{service.h2c_url}/where", content=b"x" * 200_000).text == "inline"
    assert client.post(f"{service.url}/where", content=b"x").text == "inline"
    assert client.post(f"{service.tls_url}/where", content=iter([b"x" * 100_000] * 20)).text == "inline"
    assert client.post(f"{service.url}/where?wait", content=b"x").status_code == 500
    (line,) = service.errors.read_text().splitlines()
    assert "an application that runs inline may not wait there" in line
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as half:
        half.sendall(b"POST /where HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nx")
        assert client.get(f"{service.url}/hop?1").text == "1"  # it holds nobody up
    wait_until(lambda: "went away" in noted(), "the disconnect")
    service.stop()


def test_inline_a_request_that_waits_for_its_body_is_finished_before_the_shutdown(
    start: Callable[..., Service], noted: Callable[[], list[str]]
) -> None:
    service = start(APPLICATION_RUNS="inline", WORKERS="1").ready()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as half:
        half.sendall(b"POST /where HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nx")
        wait_until(lambda: have_been_read(half), "the first half")
        service.signal(signal.SIGTERM)
        wait_until(lambda: is_free(service.port), "the end of its listening")
        half.sendall(b"x")
        assert read_response(half) == b"inline"
    assert service.wait() == 0
    service.gone()
    assert noted().count("shutdown") == 2


async def _hop(port: int, context: ssl.SSLContext | None, share: int, number: int) -> int:
    """Send requests that move to the loop, one after the other; return how many responses are right."""
    host = "localhost" if context else "127.0.0.1"
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    right = 0
    for each in range(number):
        query = b"%d-%x" % (share, each % 16)
        writer.write(b"GET /hop?%b HTTP/1.1\r\nhost: localhost\r\n\r\n" % query)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        right += await reader.readexactly(length) == query
    writer.close()
    await writer.wait_closed()
    return right


async def _hop_over_http2(url: str, number: int) -> int:
    """Send requests that move to the loop, on one connection; return how many responses are right."""
    async with httpx.AsyncClient(trust_env=False, http1=False, http2=True, timeout=60) as client:
        queries = [f"{share}-{share % 16:x}" for share in range(number)]
        responses = await asyncio.gather(*(client.get(f"{url}/hop?{each}") for each in queries))
        return sum(response.text == query for response, query in zip(responses, queries, strict=True))


def test_inline_thousands_of_requests_move_to_the_loop(start: Callable[..., Service], trust: ssl.SSLContext) -> None:
    service = start(APPLICATION_RUNS="inline", H2C_PORT=str(free_port())).ready()

    async def load(port: int, context: ssl.SSLContext | None) -> int:
        return sum(await asyncio.gather(*(_hop(port, context, share, 20) for share in range(100))))

    assert asyncio.run(load(service.port, None)) == 2000
    assert asyncio.run(load(service.tls_port, trust)) == 2000
    assert sum(asyncio.run(_hop_over_http2(service.h2c_url, 100)) for _ in range(5)) == 500
    service.stop()
    assert service.errors.read_text() == ""


def _says_close(client: httpx.Client, url: str) -> bool:
    return "connection" in client.get(f"{url}/state").headers


def test_the_close_notice_does_not_double(
    start: Callable[..., Service], trust: ssl.SSLContext, client: httpx.Client
) -> None:
    service = start(H2C_PORT=str(free_port()), WORKERS="1").ready()
    for each in service.server_processes:
        os.kill(each, CLOSE_NOTICE)
    for url in (service.url, service.tls_url):
        wait_until(partial(_says_close, client, url), "a close notice")
        for path in ("close", "state"):
            response = client.get(f"{url}/{path}")
            assert response.headers.get_list("connection") == ["close"]
    with httpx.Client(verify=trust, trust_env=False, http1=False, http2=True) as http2:
        for path in ("close", "state"):
            assert "connection" not in http2.get(f"{service.h2c_url}/{path}").headers
    service.stop()


def test_the_response_to_a_request_that_came_before_the_close_notice_has_it(
    start: Callable[..., Service], client: httpx.Client, runs: str
) -> None:
    service = start(APPLICATION_RUNS=runs, WORKERS="1").ready()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as half:
        half.sendall(b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nx")
        wait_until(lambda: have_been_read(half), "the first half")
        os.kill(service.server_process_of("json"), CLOSE_NOTICE)
        wait_until(partial(_says_close, client, service.url), "a close notice")
        half.sendall(b"x")
        response = b""
        while more := half.recv(1024):  # the connection ends with it
            response += more
    assert b"\r\nconnection: close\r\n" in response
    assert response.endswith(b"xx")
    service.stop()


def test_a_stream_goes_on_when_the_service_stops(
    start: Callable[..., Service], noted: Callable[[], list[str]], client: httpx.Client, runs: str
) -> None:
    service = start(APPLICATION_RUNS=runs).ready()
    service.remember()
    with client.stream("GET", f"{service.url}/stream?30") as response:
        lines = response.iter_lines()
        assert next(lines) == "0"
        assert client.get(f"{service.tls_url}/background").text == "later"
        service.signal(signal.SIGTERM)
        assert list(lines) == [str(number) for number in range(1, 30)]
    assert service.wait() == 0
    service.gone()
    assert noted()[-4:].count("shutdown") >= 1
    assert "done in the background" in noted()
    assert noted().count("shutdown") == 4
    assert service.errors.read_text() == ""


def test_a_stream_that_does_not_end_is_cut_by_the_deadline(start: Callable[..., Service], client: httpx.Client) -> None:
    service = start().ready()
    with client.stream("GET", f"{service.url}/stream?10000") as response:
        lines = response.iter_lines()
        next(lines)
        service.stop()
        with pytest.raises(httpx.TransportError):
            list(lines)
    assert "stop_deadline=3 s" in service.errors.read_text()


def test_web_sockets_are_off_by_default(start: Callable[..., Service]) -> None:
    service = start().ready()
    with (
        pytest.raises(websockets.InvalidStatus) as refused,
        WebSocket(f"ws://127.0.0.1:{service.port}/"),
    ):
        pass
    assert refused.value.response.status_code == 404  # a request like any other
    service.stop()


def test_web_sockets_are_served_and_closed_with_1012_at_a_stop(
    start: Callable[..., Service], noted: Callable[[], list[str]], trust: ssl.SSLContext, tmp_path: Path, runs: str
) -> None:
    service = start("app", configured(tmp_path, with_web_sockets()), APPLICATION_RUNS=runs).ready()
    urls = ((f"ws://127.0.0.1:{service.port}/", None), (f"wss://localhost:{service.tls_port}/", trust))
    with ExitStack() as stack:
        opened = [stack.enter_context(WebSocket(url, context)) for url, context in urls for _ in range(8)]
        for index, each in enumerate(opened):
            for text in (f"number {index}", "x" * 100_000):
                each.send(text)
                assert each.recv() == text
        service.remember()
        service.signal(signal.SIGTERM)
        for each in opened:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                each.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "the server restarts")
    assert service.wait() == 0
    service.gone()
    assert noted().count("websocket.disconnect 1012") == len(opened)
    assert noted().count("shutdown") == 4
    assert service.errors.read_text() == ""


@pytest.mark.long
def test_streams_and_web_sockets_at_a_renewal(
    start: Callable[..., Service],
    client: httpx.Client,
    trust: ssl.SSLContext,
    authority: trustme.CA,
    tmp_path: Path,
) -> None:
    certs = issue(authority, tmp_path / "certs", "localhost", "127.0.0.1")
    text = with_web_sockets(with_certificate_interval(1))
    service = start(
        "app",
        configured(tmp_path, text),
        TLS_CERT=str(certs / "server.crt"),
        TLS_KEY=str(certs / "server.key"),
    ).ready()
    url = f"wss://localhost:{service.tls_port}/"
    with (
        WebSocket(url, trust) as web_socket,
        client.stream("GET", f"{service.tls_url}/stream?300") as response,
    ):
        lines = response.iter_lines()
        next(lines)
        issue(authority, certs, "localhost", "127.0.0.1")
        wait_until(lambda: "renewed: " in service.errors.path.read_text(), "the renewal")
        web_socket.send("still here")
        assert web_socket.recv() == "still here"
        with WebSocket(url, trust) as another:
            another.send("new")
            assert another.recv() == "new"
        assert list(lines) == [str(number) for number in range(1, 300)]  # 15 s: beyond the close notice
        with pytest.raises(websockets.ConnectionClosed) as closed:
            web_socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    service.stop()
    assert service.errors.read_text() == ""


def test_an_application_without_lifespan_is_served_without_a_word(
    start: Callable[..., Service], client: httpx.Client
) -> None:
    service = start("without_lifespan").ready()
    assert client.get(service.url).text == "ok"
    service.stop()
    assert service.errors.read_text() == ""


def test_a_startup_that_fails_ends_the_service(start: Callable[..., Service]) -> None:
    service = start("failing")
    assert service.wait(30) == 1
    service.gone()
    lines = service.errors.read_text().splitlines()
    assert "listener json-tls: the application's startup failed: there is no database" in lines
    assert lines[-1] == "listener json-tls ended (exit status 1) before it responded; stopping the others"
    assert service.output.read_text() == ""
    assert not any("Traceback (most recent call last)" in line or "SystemExit" in line for line in lines)


def test_a_startup_that_fails_in_a_worker_that_replaces_another_is_tried_again(
    start: Callable[..., Service], client: httpx.Client, tmp_path: Path
) -> None:
    service = start("failing_later", WORKERS="1").ready()
    notes = tmp_path / "notes"
    notes.write_text("fail\n")
    (server_process, *_) = service.server_processes
    (worker,) = service.workers(server_process)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: service.errors.read_text().count("startup failed: there is no database") > 6, "attempts", 60)
    notes.write_text("")
    wait_until(lambda: client.get(f"{service.tls_url}/state").status_code == 200, "a response", 30)
    service.stop()


def test_each_worker_imports_an_application_that_is_not_preloaded(
    start: Callable[..., Service], noted: Callable[[], list[str]]
) -> None:
    service = start("create", APPLICATION_FACTORY="true").ready()
    made_by = {line.split()[-1] for line in noted() if line.startswith("made by")}
    workers = {str(worker) for each in service.all_workers() for worker in each}
    assert workers < made_by
    assert len(made_by) == len(workers) + 1  # and by the process that tried it
    service.stop()


def test_a_preloaded_application_is_imported_once(
    start: Callable[..., Service], noted: Callable[[], list[str]]
) -> None:
    service = start("create", APPLICATION_FACTORY="true", APPLICATION_PRELOAD="true").ready()
    assert [line for line in noted() if line.startswith("made by")] == [f"made by {service.process.pid}"]
    service.stop()


@pytest.mark.parametrize("own", [True, False])
def test_an_import_that_fails_in_a_worker_later_is_reported(
    launch: Launch,
    pair: dict[str, str],
    tmp_path: Path,
    client: httpx.Client,
    own: bool,  # noqa: FBT001
) -> None:
    module = tmp_path / "changing.py"
    module.write_text("from tests.support.applications import app\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    text = SERVER_TOML.replace('import = "app:app"', 'import = "changing:app"')
    if own:
        table = '\nport_variable = "TLS_PORT"\napplication = { import = "changing:app" }\n'
        text = SERVER_TOML.replace('\nport_variable = "TLS_PORT"\n', table)
    service = launch(
        configured(tmp_path, text), PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1", WORKERS="1", **pair
    ).ready()
    module.write_text("from tests.support.applications import nothing\n")
    (server_process, *_) = service.server_processes
    (worker,) = service.workers(server_process)
    os.kill(worker, signal.SIGKILL)
    wait_until(
        lambda: "cannot be imported (ImportError: cannot import name 'nothing'" in service.errors.read_text(), "a line"
    )
    prefix = "listener json-tls: " if own else ""
    assert re.search(rf"^{prefix}application\.import=changing:app cannot", service.errors.read_text(), re.MULTILINE)
    module.write_text("from tests.support.applications import app\n")
    wait_until(lambda: _responds(client, service.tls_url), "a response", 20)
    service.stop()


def _responds(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 404
    except httpx.TransportError:
        return False


def test_listeners_may_have_applications_of_their_own(
    start: Callable[..., Service], client: httpx.Client, tmp_path: Path
) -> None:
    own = f'\nport_variable = "PORT"\napplication = {{ import = "{HERE}:without_lifespan" }}\n'
    text = SERVER_TOML.replace('\nport_variable = "PORT"\n', own)
    service = start("app", configured(tmp_path, text)).ready()
    assert client.get(f"{service.url}/anything").text == "ok"
    assert client.get(f"{service.tls_url}/state").text.startswith("of ")
    service.stop()


def test_requests_that_stream_are_answered_while_others_wait(
    start: Callable[..., Service], trust: ssl.SSLContext
) -> None:
    service = start(APPLICATION_RUNS="inline", WORKERS="1").ready()
    begun = time.monotonic()
    with ThreadPoolExecutor(20) as threads, httpx.Client(verify=trust, trust_env=False, timeout=30) as client:
        futures = [threads.submit(client.get, f"{service.url}/stream?20") for _ in range(20)]
        expected = "".join(f"{number}\n" for number in range(20))
        assert all(each.result().text == expected for each in futures)
    assert time.monotonic() - begun < 20  # one after the other: at least that
    service.stop()


def test_what_an_application_forks_does_not_keep_the_port_of_a_killed_worker(
    start: Callable[..., Service], client: httpx.Client
) -> None:
    service = start(WORKERS="1").ready()
    worker, forked = map(int, client.get(f"{service.tls_url}/fork").text.split())
    try:
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: service.replaced(service.server_process_of("json-tls"), worker), "a new worker")
        service.stop()  # and its ports are free
        assert is_running(forked)
    finally:
        os.kill(forked, signal.SIGKILL)

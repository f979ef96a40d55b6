"""Bodies and messages of an application that are not what it says they are: no client takes them for something else."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import websockets
from websockets.frames import Close

from tests.support.configuration import configured, with_web_sockets
from tests.support.http1 import read_to_end
from tests.support.ports import free_port
from tests.support.processes import ROOT, wait_until
from tests.support.service import Launch, Service
from tests.support.web_sockets import WebSocket

SOURCE = """
import os
import tempfile
from tests.support.applications import note
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import FileResponse
from starlette.routing import Route

async def removed(request):
    handle, path = tempfile.mkstemp(os.fsdecode(b"-\\xff"))
    os.write(handle, bytes(int(request.query_params["size"])))
    os.close(handle)
    return FileResponse(path, background=BackgroundTask(os.remove, path))

starlette = Starlette(routes=[Route("/removed", removed)])

MESSAGES = {
    "/surrogate": {"text": "\\ud800"},
    "/bytes": {"text": b"x"},
    "/text": {"bytes": "x"},
}

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/left":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.body", "body": b""})
        note("it goes on")
    elif scope["type"] == "http" and scope["path"] == "/removed":
        await starlette(scope, receive, send)
    elif scope["type"] == "http":
        said, *parts = map(int, scope["query_string"].split(b","))
        kind = memoryview if scope["path"] == "/view" else bytes
        headers = [(b"Content-Length", b"%d" % said)] if said >= 0 else []
        headers += [(b"Transfer-Encoding", b"chunked")] if scope["path"] == "/chunked" else []
        status = 304 if scope["path"] == "/unmodified" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for index, part in enumerate(parts):
            more = index < len(parts) - 1
            await send({"type": "http.response.body", "body": kind(b"x" * part), "more_body": more})
    elif scope["type"] == "websocket" and scope["path"] == "/refused":
        await receive()
        headers = [(b"Content-Length", scope["query_string"])]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        for more in (True, False):
            await send({"type": "websocket.http.response.body", "body": memoryview(b"no"), "more_body": more})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"][1:].isdigit():
            return await send({"type": "websocket.close", "code": int(scope["path"][1:])})
        try:
            await send({"type": "websocket.send", **MESSAGES[scope["path"]]})
        except (TypeError, ValueError) as error:
            await send({"type": "websocket.send", "text": type(error).__name__})
    else:
        raise NotImplementedError
"""


@pytest.fixture(params=["loop", "inline"])
def service(launch: Launch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """An application that says what a body's length is, and sends something."""
    (tmp_path / "saying.py").write_text(SOURCE)
    variables = {"APPLICATION": "saying:app", "PYTHONPATH": f"{tmp_path}:{ROOT}", "APPLICATION_RUNS": request.param}
    variables |= {"TMPDIR": str(tmp_path), "NOTES": str(tmp_path / "notes"), "H2C_PORT": str(free_port())}
    running = launch(configured(tmp_path, with_web_sockets()), WORKERS="1", **variables).ready()
    yield running
    running.stop()


def responses(service: Service, query: str, method: bytes = b"GET") -> list[bytes]:
    """Return what comes for a request, and for another on the same connection: without heads, but for their status."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(b"%b /%b HTTP/1.1\r\nhost: a\r\n\r\n" % (method, query.encode()))
        connection.sendall(b"GET /?4,4 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        received = read_to_end(connection).split(b"HTTP/1.1 ")[1:]
    return [each[:3] + b" " + each.partition(b"\r\n\r\n")[2] for each in received]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("?3,3", b"200 xxx"),
        ("?0,0", b"200 "),
        ("?0", b"500 Internal server error"),  # no body, and no end of it
        ("view?3,3", b"200 xxx"),
        ("?3,5", b"500 Internal server error"),
        ("?9,5", b"500 Internal server error"),
        ("?0,5", b"500 Internal server error"),
        ("?3,5,5", b"500 Internal server error"),
        ("?4,1,3", b"200 xxxx"),
        ("unmodified?9,0", b"304 "),
        ("unmodified?9,9", b"304 "),
        ("chunked?3,3", b"200 xxx"),
        ("chunked?-1,1,2", b"200 1\r\nx\r\n2\r\nxx\r\n0\r\n\r\n"),
        ("?3,1,5,5", b"200 xxx"),  # a file that grows while it is sent
    ],
)
def test_the_next_response_is_whole_whatever_a_body_is(service: Service, query: str, first: bytes) -> None:
    assert responses(service, query) == [first, b"200 xxxx"]


def test_a_body_that_turns_out_to_be_too_short_ends_its_connection(service: Service) -> None:
    assert responses(service, "?9,1,2") == [b"200 xxx"]


@pytest.mark.parametrize("query", ["?5,0", "?5,5", "?5,2,3", "?-1,5"])
def test_a_response_to_head_has_the_length_of_another_and_no_body(service: Service, query: str) -> None:
    assert responses(service, query, b"HEAD") == [b"200 ", b"200 xxxx"]
    assert httpx.head(f"{service.url}/{query}", trust_env=False).headers["content-length"] == "5"
    with httpx.Client(http1=False, http2=True, trust_env=False) as client:  # which takes a body for a fault
        response = client.head(f"{service.h2c_url}/{query}")
        assert (response.headers.get("content-length", "5"), response.content) == ("5", b"")
        assert client.get(f"{service.h2c_url}/unmodified?5,5").status_code == 304


def test_a_response_may_end_once_its_client_has_left(service: Service, tmp_path: Path) -> None:
    """As Starlette's do within a middleware: what follows has to be done."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(b"GET /left HTTP/1.1\r\nhost: a\r\n\r\n")
        while not connection.recv(1000).endswith(b"x"):
            pass
    notes = tmp_path / "notes"
    wait_until(lambda: notes.is_file() and "it goes on" in notes.read_text(), "the end of the response")
    assert "bytes less than its Content-Length" not in service.errors.path.read_text()


def test_a_refusal_in_parts_is_whole(service: Service) -> None:
    for length, status, body in ((4, 401, b"nono"), (5, 403, b"")):
        with pytest.raises(websockets.InvalidStatus) as refused:
            WebSocket(f"ws://127.0.0.1:{service.port}/refused?{length}")
        assert (refused.value.response.status_code, refused.value.response.body) == (status, body)


@pytest.mark.parametrize("service", ["loop"], indirect=True)  # Starlette reads files in threads
@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_a_file_that_is_removed_after_its_response_is_whole(service: Service, tmp_path: Path, size: int) -> None:
    with httpx.Client(base_url=service.url, trust_env=False, timeout=30) as client:
        for _ in range(10):
            response = client.get("/removed", params={"size": size})
            assert (response.status_code, response.content == bytes(size)) == (200, True)
    wait_until(lambda: not list(tmp_path.glob(os.fsdecode(b"*-\xff"))), "the removal of the last file")


@pytest.mark.parametrize(
    ("path", "received"),
    [("surrogate", "UnicodeEncodeError"), ("bytes", "TypeError"), ("text", "TypeError")],
)
def test_a_message_that_cannot_be_sent_is_an_error(service: Service, path: str, received: str) -> None:
    with WebSocket(f"ws://127.0.0.1:{service.port}/{path}") as client:
        assert client.recv() == received


@pytest.mark.parametrize(("code", "sent"), [(1000, 1000), (4999, 4999), (1006, 1005), (70000, 1005)])
def test_a_code_that_no_close_may_have_is_an_error(service: Service, code: int, sent: int) -> None:
    with WebSocket(f"ws://127.0.0.1:{service.port}/{code}") as client:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd == Close(sent, "")  # 1005: none
    if sent != code:
        wait_until(lambda: "ValueError: code=" in service.errors.path.read_text(), "the error")

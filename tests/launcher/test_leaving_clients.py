"""Clients that leave, come, or read slowly, while a worker is drained: Granian drops its runtime with its last connection."""

import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import websockets

from app.launcher.lifecycle import NOTICE_AT_STOP
from tests.support.configuration import SERVER_TOML, configured, with_web_sockets
from tests.support.http1 import WEBSOCKET_UPGRADE
from tests.support.processes import ROOT, wait_until
from tests.support.service import Launch, Service
from tests.support.web_sockets import WebSocket

SOURCE = """
import asyncio
from tests.support.applications import note, respond

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        scope["state"]["pool"] = "the pool"
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(0.01)
        note("closed " + scope["state"]["pool"])
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket" and scope["path"] == "/large":
        await receive()
        await send({"type": "websocket.accept"})
        sending = asyncio.ensure_future(send({"type": "websocket.send", "bytes": bytes(2**24)}))
        note("sends")
        await sending
        note("read " + str((await receive())["code"]))
    elif scope["type"] == "websocket":
        if scope["path"] != "/receives-late":
            await receive()
        note("comes")
        await asyncio.sleep(1)
        if scope["path"] == "/refuses":
            await send({"type": "websocket.close"})
            return note("ends")
        if scope["path"] == "/receives-late":
            assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            pass
        note("ends")
    elif scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(25):
            await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body"})
        note("streamed")
    elif scope["path"] == "/named":
        asyncio.current_task().set_name("a trace")
        await respond(send, b"ok")
        await asyncio.sleep(1)
        note("sent")
    else:
        await respond(send, b"ok")
"""


SHUTDOWNS = ["closed the pool"] * 2  # of two listeners


@pytest.fixture
def start(launch: Launch, tmp_path: Path) -> Callable[..., Service]:
    """Start the service with one worker for each listener."""

    def start(text: str = SERVER_TOML) -> Service:
        (tmp_path / "leaving.py").write_text(SOURCE)
        return launch(
            configured(tmp_path, with_web_sockets(text)),
            APPLICATION="leaving:app",
            NOTES=str(tmp_path / "notes"),
            PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
            WORKERS="1",
        ).ready()

    return start


@pytest.fixture
def noted(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: (tmp_path / "notes").read_text().splitlines() if (tmp_path / "notes").exists() else []


def leave(connection: socket.socket) -> None:
    """Close it with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_a_client_that_leaves_in_a_drain_costs_no_shutdown(
    start: Callable[..., Service], noted: Callable[[], list[str]]
) -> None:
    service = start()
    client = socket.create_connection(("127.0.0.1", service.port), timeout=30)
    client.sendall(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
    assert client.recv(100)
    service.remember()
    service.signal(signal.SIGTERM)
    drained = time.monotonic() + 2 * NOTICE_AT_STOP
    while time.monotonic() < drained:  # its drain has begun by then
        client.recv(4096)
    leave(client)
    assert service.wait() == 0
    service.gone()
    assert sorted(noted()) == [*SHUTDOWNS, "streamed"]
    assert "is killed" not in service.errors.read_text()


@pytest.mark.parametrize(("path", "seen"), [("", 1012), ("receives-late", 1012), ("refuses", 403)])
def test_web_sockets_that_are_accepted_in_a_drain_are_closed_with_1012(
    start: Callable[..., Service], noted: Callable[[], list[str]], path: str, seen: int
) -> None:
    """Starlette receives `websocket.connect` as it accepts; what is refused is a 403 as ever."""
    service = start()

    def connect() -> int:
        try:
            with WebSocket(f"ws://127.0.0.1:{service.port}/{path}") as client:
                client.recv()
        except websockets.ConnectionClosed as end:
            return end.rcvd.code if end.rcvd else 0
        except websockets.InvalidStatus as refused:
            return refused.response.status_code
        return 0

    with ThreadPoolExecutor(5) as threads:
        closed = [threads.submit(connect) for _ in range(5)]
        wait_until(lambda: noted().count("comes") == 5, "all clients")
        service.remember()
        service.signal(signal.SIGTERM)
        assert [each.result() for each in closed] == [seen] * 5
    assert service.wait() == 0
    service.gone()
    assert sorted(noted()) == [*SHUTDOWNS, *["comes"] * 5, *["ends"] * 5]


def test_a_web_socket_client_that_reads_slowly_gets_what_was_sent_before_a_drain(
    start: Callable[..., Service], noted: Callable[[], list[str]]
) -> None:
    service = start(SERVER_TOML.replace("stop_deadline = 3", "stop_deadline = 20"))
    handshake = b"".join(f"{name}: {value}\r\n".encode() for name, value in WEBSOCKET_UPGRADE.items())
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(30)
        client.connect(("127.0.0.1", service.port))
        client.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\n" + handshake + b"\r\n")
        wait_until(lambda: "sends" in noted(), "the message")
        service.remember()
        service.signal(signal.SIGTERM)
        read = b""
        while part := client.recv(65536):
            read += part
            time.sleep(0.01)
    reason = b"the server restarts"
    close = bytes([0x88, 2 + len(reason)]) + (1012).to_bytes(2) + reason  # RFC 6455, section 5.5.1
    assert read.partition(b"\r\n\r\n")[2] == bytes([0x82, 127]) + (2**24).to_bytes(8) + bytes(2**24) + close
    assert service.wait() == 0
    service.gone()
    assert sorted(noted()) == [*SHUTDOWNS, "read 1012", "sends"]


def test_work_after_a_response_is_waited_for_though_its_task_has_another_name(
    start: Callable[..., Service], noted: Callable[[], list[str]]
) -> None:
    service = start()
    assert httpx.get(f"{service.url}/named", trust_env=False).text == "ok"
    service.stop()
    assert sorted(noted()) == [*SHUTDOWNS, "sent"]

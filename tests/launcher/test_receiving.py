"""What a client sends reaches an application that may stop waiting for it, and so does it that the client has left."""

import asyncio
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import pytest
import websockets
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame

from app.launcher.asgi import Message
from app.launcher.receiving import MESSAGE, ROOM, Inbox
from app.launcher.web_socket import WebSocket as ServersWebSocket
from tests.support.configuration import SERVER_TOML, configured, with_web_sockets
from tests.support.http1 import WEBSOCKET_UPGRADE, read_response
from tests.support.http2 import Client
from tests.support.ports import free_port
from tests.support.processes import ROOT, wait_until
from tests.support.service import Launch, Service
from tests.support.web_sockets import WebSocket

# What comes while the loop is held is there when the waiting task is cancelled.
SOURCE = """
import asyncio, time
from tests.support.applications import app, note, respond
others = app

async def cancelled(receive):
    task = asyncio.ensure_future(receive())
    await asyncio.sleep(0.1)
    note("waits")
    time.sleep(0.5)
    task.cancel()
    await asyncio.wait([task])

async def app(scope, receive, send):
    if scope["type"] == "websocket" and scope["path"] == "/sends":
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "x" * 1000})
                await asyncio.sleep(0.02)
        finally:
            note("it has left")
    elif scope["type"] == "websocket" and scope["path"] == "/reads-slowly":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            if message["text"] == "0":
                await send({"type": "websocket.send", "text": "it is read"})
            await asyncio.sleep(0.7)
        note("read " + str(message["code"]))
    elif scope["type"] == "websocket" and scope["path"] == "/works":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await asyncio.sleep(0.06)
            await send({"type": "websocket.send", "text": "done"})
            note("did " + message["text"])
        note("read " + str(message["code"]))
    elif scope["type"] == "websocket" and scope["path"] == "/floods":
        await receive()
        await send({"type": "websocket.accept"})
        reading = asyncio.ensure_future(receive())
        while not reading.done():
            await send({"type": "websocket.send", "text": "x" * 100})
        note("reading is done")
    elif scope["type"] == "websocket" and scope["path"].startswith("/pushes"):
        await receive()
        await send({"type": "websocket.accept"})
        async def reads():
            while (await receive())["type"] == "websocket.receive":
                if scope["path"].endswith("/closes"):
                    await send({"type": "websocket.close"})
        reading = asyncio.ensure_future(reads())
        try:
            while True:
                await send({"type": "websocket.send", "text": "x"})
                await asyncio.sleep(0.01)
        except ConnectionAbortedError as error:
            await send({"type": "websocket.close"})  # to no effect
            note(f"cannot send: {error}")
    elif scope["type"] == "websocket" and scope["path"] == "/refuses":
        await send({"type": "websocket.close"})
        note("refused")
    elif scope["type"] == "websocket" and scope["path"] == "/receives-first":
        await receive()
        note("waits")
        note("read {type} {code}".format(**await receive()))
    elif scope["type"] == "websocket" and scope["path"] == "/closes":
        await receive()
        await send({"type": "websocket.accept"})
        reading = asyncio.ensure_future(receive())
        await send({"type": "websocket.send", "text": "hello"})
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        note("read {type} {code}".format(**await reading))
        await asyncio.sleep(60)
    elif scope["type"] == "websocket" and scope["path"] == "/reads-late":
        await receive()
        await send({"type": "websocket.accept"})
        reading = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        reading.cancel()
        await send({"type": "websocket.send", "text": "hello"})
        await asyncio.sleep(1)
        note("read " + (await receive())["text"])
        note("read {type} {code}".format(**await receive()))
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await cancelled(receive)
        await send({"type": "websocket.send", "text": (await receive())["text"]})
        await receive()
    elif scope["type"] == "http" and scope["path"] == "/upload":
        await asyncio.sleep(0)
        body, more = b"", True
        await cancelled(receive)
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        await respond(send, body)
    else:
        await others(scope, receive, send)
"""


@pytest.fixture
def start(launch: Launch, pair: dict[str, str], tmp_path: Path) -> Callable[..., Service]:
    def start(text: str = SERVER_TOML, **environment: str) -> Service:
        (tmp_path / "receiving.py").write_text(SOURCE)
        return launch(
            configured(tmp_path, with_web_sockets(text)),
            APPLICATION="receiving:app",
            NOTES=str(tmp_path / "notes"),
            PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
            WORKERS="1",
            **pair,
            **environment,
        ).ready()

    return start


def wait_for_note(folder: Path, line: str) -> None:
    notes = folder / "notes"
    wait_until(lambda: notes.exists() and line in notes.read_text().splitlines(), f'the note "{line}"')


@pytest.mark.parametrize("runs", ["loop", "inline"])
def test_a_part_of_a_body_that_comes_as_its_wait_is_cancelled_is_not_lost(
    start: Callable[..., Service], tmp_path: Path, runs: str
) -> None:
    service = start(APPLICATION_RUNS=runs)
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        client.sendall(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\nconnection: close\r\n\r\n")
        wait_for_note(tmp_path, "waits")
        client.sendall(b"abcdef")
        response = b"".join(iter(lambda: client.recv(4096), b""))
    assert response.endswith(b"\r\n\r\nabcdef")
    service.stop()


@pytest.mark.parametrize("runs", ["loop", "inline"])
def test_a_message_that_comes_as_its_wait_is_cancelled_is_not_lost(
    start: Callable[..., Service], tmp_path: Path, runs: str
) -> None:
    service = start(APPLICATION_RUNS=runs)
    with WebSocket(f"ws://127.0.0.1:{service.port}/") as client:
        wait_for_note(tmp_path, "waits")
        client.send("one")
        assert client.recv() == "one"
    service.stop()


def test_an_application_that_only_sends_learns_that_a_client_has_left(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    service = start()
    with WebSocket(f"ws://127.0.0.1:{service.port}/sends") as client:
        client.send("nobody receives this")
        assert client.recv() == "x" * 1000
    wait_for_note(tmp_path, "it has left")
    service.stop()
    assert "Traceback" not in service.errors.read_text()


@pytest.mark.parametrize("how", ["it closes", "it ends its side", "the application closes"])
def test_an_application_that_sends_in_one_task_and_is_told_of_the_end_in_another_ends(
    start: Callable[..., Service], tmp_path: Path, how: str
) -> None:
    """As with uvicorn. Granian takes what is sent, for ever, and the call would hold a stop up."""
    service = start()
    by_client = how != "the application closes"
    with WebSocket(f"ws://127.0.0.1:{service.port}/pushes{'' if by_client else '/closes'}") as client:
        assert client.recv() == "x"
        if how == "it ends its side":
            client.socket.shutdown(socket.SHUT_WR)
        elif by_client:
            client.protocol.send_close(1000)
            client.socket.sendall(b"".join(client.protocol.data_to_send()))
        else:
            client.send("enough")
        why = "the client has left" if by_client else "the application has closed it"
        wait_for_note(tmp_path, f"cannot send: {why}")
    service.stop()
    assert "Traceback" not in service.errors.read_text()


def test_an_application_may_close_while_another_of_its_tasks_receives(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    service = start()
    with WebSocket(f"ws://127.0.0.1:{service.port}/closes") as client:
        assert client.recv() == "hello"
        with pytest.raises(websockets.ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")
        wait_for_note(tmp_path, "read websocket.disconnect 4001")
    service.signal(signal.SIGKILL)  # the application sleeps on


@pytest.mark.parametrize("runs", ["loop", "inline"])
def test_an_application_may_refuse_without_receiving(start: Callable[..., Service], tmp_path: Path, runs: str) -> None:
    service = start(APPLICATION_RUNS=runs)
    with pytest.raises(websockets.InvalidStatus) as refused:
        WebSocket(f"ws://127.0.0.1:{service.port}/refuses")
    assert refused.value.response.status_code == 403
    wait_for_note(tmp_path, "refused")
    service.stop()
    assert "Traceback" not in service.errors.read_text()


@pytest.mark.parametrize("ends", ["the client leaves", "the service stops"])
def test_an_application_that_receives_before_it_accepts_is_told_of_the_end(
    start: Callable[..., Service], tmp_path: Path, ends: str
) -> None:
    """Granian's awaitable would never end then (2.8.7)."""
    service = start()
    handshake = b"".join(f"{name}: {value}\r\n".encode() for name, value in WEBSOCKET_UPGRADE.items())
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        client.sendall(b"GET /receives-first HTTP/1.1\r\nhost: a\r\n" + handshake + b"\r\n")
        wait_for_note(tmp_path, "waits")
        if ends == "the service stops":
            service.stop()
        else:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for_note(tmp_path, "read websocket.disconnect 1006")
    if service.process.poll() is None:
        service.stop()
    assert "is killed" not in service.errors.read_text()


def for_ever(call: Callable[[], object]) -> None:
    while True:
        call()


def reset(client: WebSocket) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


def test_what_a_client_has_sent_before_it_left_is_received(start: Callable[..., Service], tmp_path: Path) -> None:
    """However long the application takes: its close frame comes last."""
    service = start()
    client = WebSocket(f"ws://127.0.0.1:{service.port}/reads-slowly")
    client.socket.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # else a reset drops what waits for a whole segment
    for number in range(10):
        client.send(str(number))
    client.protocol.send_close(4000)
    for data in client.protocol.data_to_send():
        client.socket.sendall(data)
    assert client.socket.recv(1, socket.MSG_PEEK)
    client.socket.close()  # with that unread: a reset
    wait_for_note(tmp_path, "read 4000")
    service.stop()


def test_an_application_that_sends_without_a_pause_is_told_that_its_client_has_left(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    service = start()
    client = WebSocket(f"ws://127.0.0.1:{service.port}/floods")
    assert client.recv() == "x" * 100
    reset(client)
    wait_for_note(tmp_path, "reading is done")
    assert httpx.get(f"{service.url}/close", trust_env=False).text == "bye"
    service.stop()


def test_a_client_that_comes_from_the_port_of_one_that_has_left_takes_its_place(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    service = start()
    port = free_port()  # one that the kernel gives nobody else meanwhile
    reset(WebSocket(f"ws://127.0.0.1:{service.port}/sends", port=port))
    handshake = b"".join(f"{name}: {value}\r\n".encode() for name, value in WEBSOCKET_UPGRADE.items())
    with socket.socket() as second:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        second.bind(("127.0.0.1", port))
        second.connect(("127.0.0.1", service.port))
        second.sendall(b"GET /sends HTTP/1.1\r\nhost: a\r\n" + handshake + b"\r\n")
        wait_for_note(tmp_path, "it has left")
        assert second.recv(4096)
    service.stop()


def test_a_client_may_come_from_one_port_to_two_addresses(start: Callable[..., Service], tmp_path: Path) -> None:
    service = start(HOST="0.0.0.0")  # noqa: S104 - several addresses
    source = ("127.0.0.1", free_port())
    handshake = b"".join(f"{name}: {value}\r\n".encode() for name, value in WEBSOCKET_UPGRADE.items())
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(2)]
        for number, client in enumerate(clients, 1):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(source)
            client.settimeout(30)
            client.connect((f"127.0.0.{number}", service.port))
            client.sendall(b"GET /sends HTTP/1.1\r\nhost: a\r\n" + handshake + b"\r\n")
            assert client.recv(4096)
        for client in clients:
            with client.makefile("rb") as reader:
                assert len(reader.read(50_000)) == 50_000  # sent within a second
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: (tmp_path / "notes").read_text().count("it has left") == 2, "both to be noticed")
    service.stop()


def test_a_message_that_came_before_a_drain_is_received_in_it(start: Callable[..., Service], tmp_path: Path) -> None:
    service = start()
    service.remember()
    with WebSocket(f"ws://127.0.0.1:{service.port}/reads-late") as client:
        client.send("an order")
        assert client.recv() == "hello"
        service.signal(signal.SIGTERM)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert service.wait() == 0
    service.gone()
    read = [each for each in (tmp_path / "notes").read_text().splitlines() if each.startswith("read")]
    assert read == ["read an order", "read websocket.disconnect 1012"]


@pytest.mark.parametrize("runs", ["loop", "inline"])
def test_messages_that_came_before_a_drain_are_received_in_it(
    start: Callable[..., Service], tmp_path: Path, runs: str
) -> None:
    """However many, though the application is busy with the first: it may respond, to no effect."""
    service = start(SERVER_TOML.replace("stop_deadline = 3", "stop_deadline = 20"), APPLICATION_RUNS=runs)
    service.remember()
    with WebSocket(f"ws://127.0.0.1:{service.port}/works") as client:
        for number in range(25):
            client.send(str(number))
        wait_for_note(tmp_path, "did 0")
        service.signal(signal.SIGTERM)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            for_ever(client.recv)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert service.wait() == 0
    service.gone()
    did = [each for each in (tmp_path / "notes").read_text().splitlines() if each.startswith(("did", "read"))]
    assert did == [*(f"did {number}" for number in range(25)), "read 1012"]


def test_a_client_that_sends_without_a_pause_does_not_hold_a_drain(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    service = start()
    service.remember()
    with WebSocket(f"ws://127.0.0.1:{service.port}/works") as client:

        def flood() -> None:
            with suppress(OSError):
                for_ever(lambda: client.send("x" * 100))

        flooding = threading.Thread(target=flood)
        flooding.start()
        wait_for_note(tmp_path, "did " + "x" * 100)
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        flooding.join()
    service.gone()
    assert "read 1012" in (tmp_path / "notes").read_text().splitlines()
    assert "is killed" not in service.errors.read_text()


def test_web_sockets_beyond_the_backpressure_are_refused_until_others_end(start: Callable[..., Service]) -> None:
    """Granian's own counts no WebSockets: their clients could take all files that a worker may open."""
    service = start(SERVER_TOML.replace("backpressure = 16384", "backpressure = 3"))
    url = f"ws://127.0.0.1:{service.port}/sends"
    first, *others = [WebSocket(url) for _ in range(3)]
    for _ in range(2):
        with pytest.raises(websockets.InvalidStatus) as refused:
            WebSocket(url)
        assert refused.value.response.status_code == 503
    assert httpx.get(f"{service.url}/close", trust_env=False).text == "bye"
    first.socket.close()

    def is_open() -> bool:
        try:
            others.append(WebSocket(url))
        except websockets.InvalidStatus:
            return False
        return True

    wait_until(is_open, "room")
    for each in others:
        each.socket.close()
    service.stop()
    assert service.errors.read_text().count("refuses more with 503") == 1


def test_what_is_read_ahead_has_a_bound() -> None:
    async def call() -> None:
        granians = Granians()
        inbox = Inbox(granians.receive)
        inbox.read_ahead()
        while not granians.asked[-1].done():
            granians.come("websocket.receive", bytes=b"x" * 100_000)
            await asyncio.sleep(0)
        assert len(granians.asked) == -(-ROOM // (MESSAGE + 100_000))
        inbox.cancel()
        for _ in granians.asked:
            assert (await inbox.receive())["bytes"]
        with pytest.raises(asyncio.CancelledError):
            await inbox.receive()

    asyncio.run(call())


def test_it_reads_ahead_of_who_waits_in_order() -> None:
    """Whether the application waits already, stops waiting, or comes later; nothing is asked for after a disconnect."""

    async def call() -> None:
        granians = Granians()
        inbox = Inbox(granians.receive)
        waiting = asyncio.ensure_future(inbox.receive())
        await asyncio.sleep(0)
        inbox.read_ahead()
        granians.come("websocket.receive", text="one")
        assert (await waiting)["text"] == "one"
        waiting = asyncio.ensure_future(inbox.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        granians.come("websocket.receive", text="two")
        await asyncio.sleep(0)
        granians.come("websocket.disconnect")
        await asyncio.sleep(0)
        assert len(granians.asked) == 3
        assert (await inbox.receive())["text"] == "two"
        assert (await inbox.receive())["type"] == "websocket.disconnect"
        assert len(granians.asked) == 3

    asyncio.run(call())


class Granians:
    """Granian's side: what comes is given to the awaitable that waits."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[Message]] = []

    def receive(self) -> asyncio.Future[Message]:
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]

    def come(self, kind: str, **content: str | bytes) -> None:
        self.asked[-1].set_result({"type": kind, **content})


def test_several_tasks_that_receive_get_a_message_each_and_all_end_when_it_is_over() -> None:
    async def call() -> None:
        granians = Granians()
        inbox = Inbox(granians.receive)
        tasks = [asyncio.ensure_future(inbox.receive()) for _ in range(3)]
        await asyncio.sleep(0)
        granians.come("one")
        assert (await tasks[0])["type"] == "one"
        await asyncio.sleep(0)
        assert len(granians.asked) == 2
        inbox.cancel()
        await asyncio.wait(tasks)
        assert [each.cancelled() for each in tasks] == [False, True, True]
        with pytest.raises(asyncio.CancelledError):
            await inbox.receive()
        assert len(granians.asked) == 2

    asyncio.run(call())


def test_an_error_of_granians_is_raised_once() -> None:
    async def call() -> None:
        granians = Granians()
        inbox = Inbox(granians.receive)
        waiting = asyncio.ensure_future(inbox.receive())
        await asyncio.sleep(0)
        granians.asked[0].set_exception(RuntimeError("no"))
        with pytest.raises(RuntimeError, match="no"):
            await waiting
        waiting = asyncio.ensure_future(inbox.receive())
        await asyncio.sleep(0)
        granians.come("two")
        assert (await waiting)["type"] == "two"

    asyncio.run(call())


def test_a_message_that_has_come_is_there_though_it_is_over() -> None:
    async def call() -> None:
        granians = Granians()
        inbox = Inbox(granians.receive)
        waiting = asyncio.ensure_future(inbox.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        granians.come("one")
        inbox.cancel()
        assert inbox.has_message
        assert (await inbox.receive())["type"] == "one"
        with pytest.raises(asyncio.CancelledError):
            await inbox.receive()

    asyncio.run(call())


def test_what_several_tasks_send_stays_in_order() -> None:
    """As with uvicorn; what Granian is given while it waits to send may overtake."""
    sent: list[int] = []

    async def send(message: Message) -> None:
        await asyncio.sleep(0.01 if message["number"] == 0 else 0)
        sent.append(message["number"])

    async def receive() -> Message:
        raise AssertionError("nothing to receive")

    async def call() -> None:
        one = ServersWebSocket({}, receive, send, lambda: False)
        await asyncio.gather(*(one.send({"type": "websocket.send", "number": number}) for number in range(3)))

    asyncio.run(call())
    assert sent == [0, 1, 2]


def test_a_task_that_is_cancelled_while_it_sends_is_cancelled_though_its_web_socket_is_given_up() -> None:
    """An application that ends cancels what it has started, and does not always wait for that."""

    async def receive() -> Message:
        raise AssertionError("nothing to receive")

    async def call() -> None:
        one = ServersWebSocket({}, receive, lambda _: asyncio.get_running_loop().create_future(), lambda: False)
        sending = asyncio.ensure_future(one.send({"type": "websocket.send", "text": "x"}))
        await asyncio.sleep(0)
        sending.cancel()
        one.give_up("the application has ended")
        with pytest.raises(asyncio.CancelledError):
            await sending

    asyncio.run(call())


UPLOADS = """
from tests.support.applications import note, receive_body, respond

async def app(scope, receive, send):
    if scope["type"] == "http":
        body = await receive_body(receive)
        note(f"{scope['path']} {None if body is None else len(body)}")
        await respond(send, b"ok")
    else:
        raise NotImplementedError
"""


@pytest.mark.parametrize("runs", ["loop", "inline"])
def test_an_upload_over_http2_that_is_given_up_is_not_whole(launch: Launch, tmp_path: Path, runs: str) -> None:
    """Proxies reset its stream with NO_ERROR."""
    (tmp_path / "uploads.py").write_text(UPLOADS)
    notes = tmp_path / "notes"
    variables = {"APPLICATION": "uploads:app", "PYTHONPATH": f"{tmp_path}:{ROOT}", "APPLICATION_RUNS": runs}
    service = launch(H2C_PORT=str(free_port()), WORKERS="1", NOTES=str(notes), **variables).ready()
    with closing(Client(service.h2c_port)) as client:
        empty = client.stream()
        client.send(
            HeadersFrame(empty, client.headers("/empty", ("content-length", "")), flags=["END_HEADERS", "END_STREAM"])
        )
        given_up, whole = client.stream(), client.stream()
        for stream, path, size in ((given_up, "/given-up", 5), (whole, "/whole", 3)):
            head = client.headers(path, ("content-length", str(size)))
            client.send(HeadersFrame(stream, head, flags=["END_HEADERS"]), DataFrame(stream, b"xxx"))
        client.send(RstStreamFrame(given_up, error_code=0), DataFrame(whole, b"", flags=["END_STREAM"]))
        client.until_whole([whole])
        wait_until(lambda: "/given-up " in notes.read_text(), "the end of the other")
    assert {"/empty 0", "/given-up None", "/whole 3"} < set(notes.read_text().splitlines())
    service.stop()


@pytest.mark.parametrize("framing", ["content-length: 1000", "transfer-encoding: chunked"])
@pytest.mark.parametrize("how", ["whole", "parts", "watched"])
def test_a_body_that_its_application_leaves_cuts_no_response(
    launch: Launch, tmp_path: Path, framing: str, how: str
) -> None:
    """It comes when the application responds, as with clients that send the head by itself."""
    notes = tmp_path / "notes"
    service = launch(
        APPLICATION="tests.support.applications:app", NOTES=str(notes), WORKERS="1", SELF_SIGNED="1"
    ).ready()
    body = bytes(1000) if "length" in framing else b"3e8\r\n" + bytes(1000) + b"\r\n0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        for number in range(1, 4):
            connection.sendall(f"POST /unread?{how} HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n".encode())
            wait_until(lambda number=number: notes.read_text().count("responds") == number, "the application")  # type: ignore[misc]
            connection.sendall(body)
            assert read_response(connection) == bytes(4_000_000)
    service.stop()


def test_a_client_that_does_not_send_the_rest_of_its_body_is_not_waited_for(launch: Launch) -> None:
    service = launch(APPLICATION="tests.support.applications:app", WORKERS="1", SELF_SIGNED="1").ready()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(b"POST /unread?whole HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n")
        assert read_response(connection) == bytes(4_000_000)
        assert connection.recv(1) == b""
    service.stop()

"""Applications of other people, as the launcher sees them: raw ASGI, and what goes wrong with one."""

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from app.launcher.asgi import Application, Message, Receive, Send
from bench import ROOT

NOTES = Path(os.environ.get("NOTES", os.devnull))
"""Where an application notes what happens to it, a line each."""
TEXT = (b"content-type", b"text/plain")


def note(line: str) -> None:
    """Note a line; processes share the file."""
    with NOTES.open("a") as file:
        file.write(f"{line}\n")


def noted(line: str) -> bool:
    """Return whether a line has been noted."""
    return NOTES.is_file() and line in NOTES.read_text().splitlines()


async def respond(send: Send, body: bytes, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [TEXT, *headers]})
    await send({"type": "http.response.body", "body": body})


async def receive_body(receive: Receive) -> bytes | None:
    """Return the request's body; None if the client went away."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            note("went away")
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


async def _echo(_: Message, receive: Receive, send: Send) -> None:
    body = await receive_body(receive)
    if body is not None:
        await respond(send, body)


async def _hop(scope: Message, _: Receive, send: Send) -> None:
    """Wait for a few milliseconds on the loop; respond with the query."""
    await asyncio.sleep(0)
    await asyncio.sleep(int(scope["query_string"][-1:] or b"0", 16) / 1000)
    await respond(send, scope["query_string"])


async def _stream(scope: Message, _: Receive, send: Send) -> None:
    """Send as many numbers as the query says, one in 50 ms."""
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": [TEXT]})
    for number in range(int(scope["query_string"])):
        await send({"type": "http.response.body", "body": b"%d\n" % number, "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body"})


async def _unread(scope: Message, receive: Receive, send: Send) -> None:
    """Respond with 4 MB, and leave the request's body; in parts, or to a task that waits for the client to leave."""
    body = bytes(4_000_000)
    watch = asyncio.ensure_future(_leaves(receive)) if scope["query_string"] == b"watched" else None
    await asyncio.sleep(0)
    note("responds")
    if scope["query_string"] == b"whole":
        await respond(send, body)
    else:  # as Starlette's BaseHTTPMiddleware does
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})
    if watch is not None:
        watch.cancel()


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _where(scope: Message, receive: Receive, send: Send) -> None:
    """Respond with where it runs once it has the body, and wait for anything then if the query says so."""
    await receive_body(receive)
    if scope["query_string"] == b"wait":
        await asyncio.sleep(0.001)
    await respond(send, b"loop" if threading.current_thread() is threading.main_thread() else b"inline")


async def _disconnect(_: Message, receive: Receive, send: Send) -> None:
    """Note that the client went away before there was a response."""
    note("asked")
    await receive()
    message = await receive()
    note(message["type"])
    await respond(send, b"")


async def _background(_: Message, __: Receive, send: Send) -> None:
    await asyncio.sleep(0)
    await respond(send, b"later")
    await asyncio.sleep(1)
    note("done in the background")


async def _raise(_: Message, __: Receive, ___: Send) -> None:
    raise ValueError("a secret of the application's")


async def _sleep(_: Message, __: Receive, send: Send) -> None:
    await asyncio.sleep(0.01)
    await respond(send, b"slept")


async def _close(_: Message, __: Receive, send: Send) -> None:
    await respond(send, b"bye", (b"Connection", b"close"))


async def _state(scope: Message, _: Receive, send: Send) -> None:
    await respond(send, scope["state"]["greeting"].encode())


async def _fork(_: Message, __: Receive, send: Send) -> None:
    """Fork a process that outlives this one; respond with the numbers of both."""
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(120,))
    forked.start()
    await respond(send, f"{os.getpid()} {forked.pid}".encode())


ROUTES: dict[str, Callable[[Message, Receive, Send], Awaitable[None]]] = {
    "/echo": _echo,
    "/hop": _hop,
    "/unread": _unread,
    "/where": _where,
    "/stream": _stream,
    "/disconnect": _disconnect,
    "/background": _background,
    "/raise": _raise,
    "/sleep": _sleep,
    "/close": _close,
    "/state": _state,
    "/fork": _fork,
}


async def _lifespan(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    note("startup")
    scope["state"]["greeting"] = f"of {os.getpid()}"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    note("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def _chat(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    note(f"{message['type']} {message['code']}")


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Do what the path says."""
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
    elif scope["type"] == "websocket":
        await _chat(receive, send)
    elif (route := ROUTES.get(scope["path"])) is not None:
        await route(scope, receive, send)
    else:
        await respond(send, b"nothing here", status=404)


async def without_lifespan(scope: Message, _: Receive, send: Send) -> None:
    """Know requests alone, as many an application does."""
    assert scope["type"] == "http"
    await respond(send, b"ok")


async def failing(scope: Message, receive: Receive, send: Send) -> None:
    """Report that the startup has failed."""
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "Traceback:\n  somewhere\nthere is no database"})


async def failing_later(scope: Message, receive: Receive, send: Send) -> None:
    """Report that the startup has failed, once a test has noted that it shall."""
    if scope["type"] == "lifespan" and noted("fail"):
        await failing(scope, receive, send)
    await app(scope, receive, send)


def _wait_while_held() -> None:
    while Path(os.environ["HOLD"]).exists():
        time.sleep(0.01)


async def held(scope: Message, receive: Receive, send: Send) -> None:
    """Serve what `app:app` does, but hold the startup for as long as the file that HOLD names exists."""
    from app import app as json_service  # noqa: PLC0415 - reads the dataset, which the others here do not need

    if scope["type"] == "lifespan":
        _wait_while_held()
        await _lifespan(scope, receive, send)
    else:
        await json_service(scope, receive, send)


def create() -> Application:
    """Make the application."""
    note(f"made by {os.getpid()}")
    return app


not_callable = "an application"


def lacking_threads(folder: Path) -> dict[str, str]:
    """Return variables for an application whose next worker lacks threads, once there is a file `ours` or `granians`.

    `ours`: the launcher's cannot be started twice, from then on. `granians`: the last of Granian's cannot, and it waits.
    """
    (folder / "lacking.py").write_text(
        "import threading, time\n"
        "from pathlib import Path\n"
        "from granian.server import mp\n"
        "from tests.support.applications import app\n"
        f"folder, start, refused = Path({str(folder)!r}), threading.Thread.start, []\n"
        "class Waiting:\n"
        "    def __init__(self, *_): pass\n"
        "    def __getattr__(self, _): return lambda *_: time.sleep(3600)\n"
        "def refuse(thread):\n"
        "    if len(refused) == 2: return start(thread)\n"
        "    refused.append(thread)\n"
        "    raise RuntimeError('no thread')\n"
        "if (folder / 'granians').exists():\n"
        "    (folder / 'granians').unlink()\n"
        "    mp.ASGIWorker = Waiting\n"
        "if (folder / 'ours').exists():\n"
        "    (folder / 'ours').unlink()\n"
        "    threading.Thread.start = refuse\n"
    )
    return {"APPLICATION": "lacking:app", "PYTHONPATH": f"{folder}:{ROOT}"}


def dying_application(folder: Path) -> dict[str, str]:
    """Return variables for an application that ends each process that imports it, once there is a file `dies`."""
    flag = folder / "dies"
    (folder / "dying_at_its_import.py").write_text(
        f"import os\nif os.path.exists({str(flag)!r}): os._exit(9)\nfrom tests.support.applications import app\n"
    )
    return {"APPLICATION": "dying_at_its_import:app", "PYTHONPATH": f"{folder}:{ROOT}"}

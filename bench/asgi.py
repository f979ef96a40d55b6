"""Calling the application in process, as a server calls it."""

from collections.abc import Sequence
from urllib.parse import quote

from app.service.application import Application, Message

LOCALHOST = (b"host", b"localhost:8080")


def scope(path: str, query: bytes, fields: Sequence[tuple[bytes, bytes]] = (LOCALHOST,)) -> Message:
    """Make the scope of a GET; `path` is percent-decoded, the query is not."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": query,
        "headers": list(fields),
    }


async def receive() -> Message:
    """Raise RuntimeError: the application reads no body."""
    raise RuntimeError("the application reads no body")


async def send(_: Message) -> None:
    """Drop what is sent."""


def call(app: Application, request: Message) -> int:
    """Run one request to its end and return the status; raises RuntimeError if the application waits for anything."""
    status = 0

    async def keep(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    try:
        app(request, receive, keep).send(None)
    except StopIteration:
        return status
    raise RuntimeError("the application waited for something")

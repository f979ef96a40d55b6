"""The application called at the ASGI boundary, without a server."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from app.service.application import Application, Message


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


def call(
    app: Application,
    method: str,
    path: str,
    query: bytes = b"",
    fields: Sequence[tuple[bytes, bytes]] = (),
    parts: Sequence[bytes | None] | None = None,
) -> Response:
    """Call the application once, and check that it keeps to the protocol.

    The body comes in `parts`, and ends with the last; if that is None, the client goes away instead. Without `parts`
    nothing may be read.
    """
    sent: list[Message] = []
    coming = list(parts or ())

    async def receive() -> Message:
        assert coming, "there is nothing more to read"
        if (part := coming.pop(0)) is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(coming)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": quote(path, errors="replace").encode(),
        "query_string": query,
        "headers": [(b"host", b"localhost"), *fields],
    }
    asyncio.run(app(scope, receive, send))
    start, body = sent
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    assert type(body["body"]) is bytes
    headers = dict(start["headers"])
    assert len(headers) == len(start["headers"])
    if method != "HEAD":
        assert int(headers[b"content-length"]) == len(body["body"])
    return Response(start["status"], headers, body["body"])


def request(
    app: Application, path: str, query: bytes = b"", method: str = "GET", accept_encoding: Sequence[bytes] = ()
) -> Response:
    """Call the JSON service once; it reads no body."""
    fields = [*((b"accept-encoding", field) for field in accept_encoding), (b"accept", b"gzip")]
    response = call(app, method, path, query, fields)
    assert response.headers[b"content-type"] == b"application/json"
    return response


def passed_on(middleware: Callable[[Any], Any], scope: dict[str, Any]) -> dict[str, Any]:
    """Return the scope that an application gets through a middleware."""
    scopes: list[dict[str, Any]] = []

    async def application(scope: dict[str, Any], *_: object) -> None:
        scopes.append(scope)

    async def nothing(*_: object) -> Any:  # noqa: ANN401
        raise AssertionError

    async def call() -> None:
        await middleware(application)(scope, nothing, nothing)

    asyncio.run(call())
    (passed,) = scopes
    return passed

"""The application called at the ASGI boundary, without a server."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from app.service.application import Application, Message


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


def request(
    app: Application, path: str, query: bytes = b"", method: str = "GET", accept_encoding: Sequence[bytes] = ()
) -> Response:
    """Call the application once, and check that it keeps to the protocol."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("a GET has no body to read")

    async def send(message: Message) -> None:
        sent.append(message)

    fields = [
        (b"host", b"localhost"),
        *((b"accept-encoding", field) for field in accept_encoding),
        (b"accept", b"gzip"),
    ]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": quote(path, errors="replace").encode(),
        "query_string": query,
        "headers": fields,
    }
    asyncio.run(app(scope, receive, send))
    start, body = sent
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    assert type(body["body"]) is bytes
    headers = dict(start["headers"])
    assert len(headers) == len(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    if method != "HEAD":
        assert int(headers[b"content-length"]) == len(body["body"])
    return Response(start["status"], headers, body["body"])

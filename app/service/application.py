"""The HTTP side: `GET /json/{count}?m={m}` as a raw ASGI application."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from app.service.catalogue import MULTIPLIER_MAX, MULTIPLIER_MIN, Catalogue, Item
from app.service.negotiation import GZIP, VARY, Coding, encoder

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Coroutine[Any, Any, None]]

PREFIX = "/json/"
CONTENT_TYPE = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")

_encode = msgspec.json.Encoder().encode


def natural(digits: str) -> int | None:
    """Read a natural number of ASCII digits; None where `digits` is anything else.

    Beyond 20 digits the answer is not the number, only at least 10**19: more than any limit here,
    and `int` refuses to read thousands of digits.
    """
    if not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits.lstrip("0")[:20] or "0")


def parse_count(path: str) -> int | None:
    """Read how many items `path` asks for; None where it is no path of ours."""
    return natural(path[len(PREFIX) :]) if path.startswith(PREFIX) else None


def parse_multiplier(query: bytes) -> int | None:
    """Read the first `m` of a query string, 1 where there is none; None where it is out of bounds.

    Names and values are percent-decoded (WHATWG URL, application/x-www-form-urlencoded).
    """
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name == "m":
            size = natural(value.removeprefix("-"))
            if size is None:
                return None
            multiplier = -size if value.startswith("-") else size
            return multiplier if MULTIPLIER_MIN <= multiplier <= MULTIPLIER_MAX else None
    return 1


def application(items: Sequence[Item], coding: Coding = GZIP, closing: Sequence[object] = ()) -> Application:
    """Build the application that serves `items`, in `coding` to those who ask for it.

    Once `closing` has anything in it, answers tell that their connection ends with them (RFC 9112, section 9.6).
    """
    catalogue = Catalogue(items)
    encode = encoder(coding)
    length = len(items)
    # What the two parsers say of the paths and queries that are asked for most; numbers, not answers.
    counts = {f"{PREFIX}{count}": count for count in range(min(length, 1000) + 1)}
    multipliers = {b"m=%d" % multiplier: multiplier for multiplier in range(100)}

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _answer_no_request(scope, receive, send)
            return
        if closing:
            send = _with_close(send)
        count = counts.get(scope["path"])
        if count is None:
            count = parse_count(scope["path"])
            if count is None:
                await _refuse(scope, send, 404, f"there is nothing here; try {PREFIX}{length}")
                return
            count = min(count, length)
        method = scope["method"]
        if method not in ("GET", "HEAD"):
            await _refuse(scope, send, 405, f"{PREFIX}{{count}} takes GET and HEAD", (b"allow", b"GET, HEAD"))
            return
        multiplier = multipliers.get(scope["query_string"])
        if multiplier is None:
            multiplier = parse_multiplier(scope["query_string"])
            if multiplier is None:
                reason = f"m must be an integer from {MULTIPLIER_MIN} to {MULTIPLIER_MAX}: ASCII digits, - before them or not"
                await _refuse(scope, send, 400, reason)
                return
        encoded = encode(catalogue.page(count, multiplier), scope["headers"])
        if encoded is None:
            reason = f"Accept-Encoding allows nothing that is here: identity, or {coding.name.decode()} where it is not too large"
            await _refuse(scope, send, 406, reason, VARY)
            return
        body, headers = encoded
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [CONTENT_TYPE, (b"content-length", _encode(len(body))), *headers],
            }
        )
        await send({"type": "http.response.body", "body": body if method == "GET" else b""})

    return app


def _with_close(send: Send) -> Send:
    async def send_with_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"].append(CLOSE)
        await send(message)

    return send_with_close


async def _refuse(scope: Message, send: Send, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
    body = _encode({"error": reason})
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [CONTENT_TYPE, (b"content-length", b"%d" % len(body)), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})


async def _answer_no_request(scope: Message, receive: Receive, send: Send) -> None:
    """Complete the lifespan; refuse a websocket (ASGI 3.0: closed before accepted is a 403)."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await receive()
    await send({"type": "websocket.close"})

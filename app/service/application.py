"""The HTTP side: `GET /json/{count}?m={m}` as a raw ASGI application."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec

from app.service.catalogue import MULTIPLIER_MAX, MULTIPLIER_MIN, Catalogue, Item
from app.service.negotiation import GZIP, VARY, Coding, negotiator

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Coroutine[Any, Any, None]]

PREFIX = "/json/"
CONTENT_TYPE = (b"content-type", b"application/json")
M, M_ESCAPED = (b"&m=", b"&m&"), (b"&%6d=", b"&%6D=", b"&%6d&", b"&%6D&")
MINUS = (b"-", b"%2d", b"%2D")

# What the two parsers return for the paths and queries that are most asked for: numbers, no responses.
COUNTS = {f"{PREFIX}{count}": count for count in range(1001)}
MULTIPLIERS = {b"m=%d" % multiplier: multiplier for multiplier in range(100)}

_json = msgspec.json.Encoder().encode  # makes a number's digits faster than bytes' own formatting


def natural(digits: bytes) -> int | None:
    """Return the natural number that ASCII digits write; None if `digits` is anything else.

    Beyond 20 digits the result is not the number, only at least 10**19: more than any limit here,
    and `int` refuses to read thousands of digits.
    """
    if not digits.isdigit():  # of bytes, ASCII digits alone
        return None
    return int(digits) if len(digits) < 20 else int(digits.lstrip(b"0")[:20] or b"0")


def parse_count(path: str) -> int | None:
    """Return how many items `path` asks for; None if it is no path of ours."""
    if (count := COUNTS.get(path)) is not None:
        return count
    return natural(path[len(PREFIX) :].encode(errors="replace")) if path.startswith(PREFIX) else None


def parse_multiplier(query: bytes) -> int | None:
    """Return the first `m` of a query string, 1 if there is none; None if it is no integer within the bounds.

    Names and values are percent-decoded (WHATWG URL, application/x-www-form-urlencoded), by a few passes over the
    bytes: a query of 64 KiB may hold 20,000 parameters, and takes less than a millisecond (`make bench-app`).
    """
    if (multiplier := MULTIPLIERS.get(query)) is not None:
        return multiplier
    value = query[2:].partition(b"&")[0] if query.startswith(b"m=") else _first_m(query)
    return 1 if value is None else parse_integer(value, MULTIPLIER_MIN, MULTIPLIER_MAX)


def parse_integer(value: bytes, least: int, most: int) -> int | None:
    """Return the integer that a parameter's value writes, percent-encoded or not; None if it is none within the bounds.

    It is an optional - and ASCII digits. The bounds are below 10**19.
    """
    if (size := natural(value)) is not None:
        return size if size <= most else None
    for minus in MINUS:
        if value.startswith(minus):
            size = natural(_unescaped(value[len(minus) :]))
            return -size if size is not None and -size >= least else None
    size = natural(_unescaped(value))
    return size if size is not None and size <= most else None


def _first_m(query: bytes) -> bytes | None:
    """Return the value of the first parameter whose name decodes to m, empty if it has none; None without such."""
    padded = b"&%b&" % query
    names = M + M_ESCAPED if b"&%6" in padded else M
    found = [(at, name) for name in names if (at := padded.find(name)) >= 0]
    if not found:
        return None
    at, name = min(found)
    start = at + len(name)
    return padded[start : padded.index(b"&", start)] if name.endswith(b"=") else b""


def _unescaped(digits: bytes) -> bytes:
    """Return digits without percent-encoding (%30 to %39); something that is no digits if `digits` has others."""
    if b"%" not in digits or b"%3%" in digits or digits.endswith(b"%3"):
        return digits
    return digits.replace(b"%3", b"")


def build(items: Sequence[Item], coding: Coding = GZIP) -> Application:
    """Return the application that serves `items`, in `coding` to clients that accept it."""
    catalogue = Catalogue(items)
    negotiate = negotiator(coding)
    length = len(items)

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _complete_lifespan_or_refuse(scope, receive, send)
            return
        count = parse_count(scope["path"])
        if count is None:
            await _send_error(scope, send, 404, f"there is nothing here; try {PREFIX}{length}")
            return
        method = scope["method"]
        if method not in ("GET", "HEAD"):
            await _send_error(scope, send, 405, f"{PREFIX}{{count}} takes GET and HEAD", (b"allow", b"GET, HEAD"))
            return
        multiplier = parse_multiplier(scope["query_string"])
        if multiplier is None:
            reason = (
                f"m must be an integer from {MULTIPLIER_MIN} to {MULTIPLIER_MAX}: ASCII digits, with or without a -"
            )
            await _send_error(scope, send, 400, reason)
            return
        response = negotiate(catalogue.page(min(count, length), multiplier), scope["headers"])
        if response is None:
            reason = f"Accept-Encoding allows neither identity nor {coding.name.decode()} (up to 1 MiB), which are all"
            await _send_error(scope, send, 406, reason, VARY)
            return
        body, headers = response
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [CONTENT_TYPE, (b"content-length", _json(len(body))), *headers],
            }
        )
        await send({"type": "http.response.body", "body": body if method == "GET" else b""})

    return app


async def _send_error(scope: Message, send: Send, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
    body = _json({"error": reason})
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [CONTENT_TYPE, (b"content-length", _json(len(body))), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})


async def _complete_lifespan_or_refuse(scope: Message, receive: Receive, send: Send) -> None:
    """Complete the lifespan; refuse a websocket (ASGI 3.0: closed before accepted is a 403)."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await receive()
    await send({"type": "websocket.close"})

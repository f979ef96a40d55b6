"""The HTTP side: `GET /json/{count}` as a raw ASGI application.

Of the target the ASGI scope holds `path` (percent-decoded, UTF-8), `raw_path` (as it was sent) and `query_string` (as it
was sent). Scheme and authority of a target in absolute form (RFC 9112, section 3.2.2) are missing.
"""

import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import cache
from typing import Any

import msgspec

from app.service.catalogue import MULTIPLIER_MAX, MULTIPLIER_MIN, Catalogue, Item
from app.service.negotiation import GZIP, VARY, Coding, Header, negotiator

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Coroutine[Any, Any, None]]

PREFIX = "/json/"
METHODS = ("GET", "HEAD")
CONTENT_TYPE = (b"content-type", b"application/json")
MINUS = (b"-", b"%2d", b"%2D")

# What the two parsers return for the paths and queries that are most asked for: numbers, no responses.
COUNTS = {f"{PREFIX}{count}": count for count in range(1001)}
MULTIPLIERS = {b"m=%d" % multiplier: multiplier for multiplier in range(100)}

_json = msgspec.json.Encoder().encode  # makes a number's digits faster than bytes' own formatting


class Rejected(Exception):  # noqa: N818 - a response, not an error of ours
    """A request that is rejected: the status, the reason that the body gives, and headers of its own."""

    def __init__(self, status: int, reason: str, *headers: Header) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


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
    """Return the first `m` of a query string, 1 if there is none; None if it is no integer within the bounds."""
    if (multiplier := MULTIPLIERS.get(query)) is not None:
        return multiplier
    value = first(query, b"m")
    return 1 if value is None else integer(value, MULTIPLIER_MIN, MULTIPLIER_MAX)


def first(query: bytes, name: bytes) -> bytes | None:
    """Return the value of the first parameter of that name, empty if it has none; None if there is no such parameter.

    Names are percent-decoded (WHATWG URL, application/x-www-form-urlencoded), the value is left as it was sent. `name`
    has ASCII letters, digits, - and _. It takes one pass over the bytes: a query of 64 KiB may hold 20,000 parameters,
    and takes less than a millisecond (`make bench-app`).
    """
    begin = name + b"="
    if query.startswith(begin):
        return query[len(begin) :].partition(b"&")[0]
    found = _search(name)(b"&%b&" % query)
    return found and (found[1] or b"")


@cache
def _search(name: bytes) -> Callable[[bytes], re.Match[bytes] | None]:
    """Return the search for a parameter's name and value: each letter of the name as it is, or percent-encoded."""
    letters = [b"(?:%b|%%(?i:%02x))" % (re.escape(bytes([letter])), letter) for letter in name]
    return re.compile(b"&%b(?:=([^&]*+)|&)" % b"".join(letters)).search


def integer(value: bytes, least: int, most: int) -> int | None:
    """Return the integer that a parameter's value writes, percent-encoded or not; None unless it is within the bounds.

    That is an optional - and ASCII digits.
    """
    number = natural(value)
    if number is None:
        negative = value.startswith(MINUS)
        number = natural(_unescaped(value[1 if value.startswith(b"-") else 3 :] if negative else value))
        if number is None:
            return None
        number = -number if negative else number
    return number if least <= number <= most else None


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

    def respond(scope: Message) -> tuple[bytes, Sequence[Header]]:
        """Return the body of a 200 and the headers that describe it; raise Rejected for any other status."""
        count = parse_count(scope["path"])
        if count is None:
            raise Rejected(404, f"there is nothing here; try {PREFIX}{length}")
        if scope["method"] not in METHODS:
            raise Rejected(405, f"{PREFIX}{{count}} takes GET and HEAD", (b"allow", b"GET, HEAD"))
        multiplier = parse_multiplier(scope["query_string"])
        if multiplier is None:
            bounds = f"from {MULTIPLIER_MIN} to {MULTIPLIER_MAX}"
            raise Rejected(400, f"m must be an integer {bounds}: ASCII digits, with or without a -")
        response = negotiate(catalogue.page(min(count, length), multiplier), scope["headers"])
        if response is None:
            codings = f"identity nor {coding.name.decode()} (up to 1 MiB)"
            raise Rejected(406, f"Accept-Encoding allows neither {codings}, which are all", VARY)
        return response

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _complete_lifespan_or_refuse(scope, receive, send)
            return
        status = 200
        try:
            body, headers = respond(scope)
        except Rejected as rejected:
            status, body, headers = rejected.status, _json({"error": rejected.reason}), rejected.headers
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [CONTENT_TYPE, (b"content-length", _json(len(body))), *headers],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return app


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

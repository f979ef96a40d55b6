"""The arena's application: the JSON service, and beside it the plain-text endpoints that the arena loads."""

import asyncio
import sys
from collections.abc import Coroutine, Iterable
from typing import Any, NamedTuple

from app.service import application, catalogue
from app.service.application import PREFIX, Application, Message, Receive, Send, integer, natural
from app.service.negotiation import Header
from app.settings import start

app: Application

TEXT = (b"content-type", b"text/plain")
BYTES = (b"content-type", b"application/octet-stream")
CLOSE = (b"connection", b"close")

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1
PARAMETERS = 16  # of a query that is added up: more of them would delay the other clients of the worker
LONGEST_DELAY = 10_000  # milliseconds
LARGEST_ADDEND = 64  # bytes of a body that is added
LARGEST_ECHO = 2**20
LARGEST_DROPPED = 2**26  # bytes beyond the largest body that are read for the sake of the request behind them

GET = ("GET", "HEAD")


async def add(scope: Message, receive: Receive, send: Send) -> None:
    """Respond with the sum of the query's integers, and of the body's if it is a POST."""
    total = parse_sum(scope["query_string"])
    if scope["method"] == "POST":
        body = await _read_body(scope, receive, send, LARGEST_ADDEND)
        if body is None:
            return
        addend = None if b"%" in body else integer(body, INTEGER_MIN, INTEGER_MAX)
        total = None if total is None or addend is None else total + addend
    if total is None:
        reason = b"up to %d parameters, and a POST's body, must be integers of 64 bits" % PARAMETERS
        await _respond(scope, send, 400, reason)
        return
    await _respond(scope, send, 200, b"%d" % total)


async def delay(scope: Message, _: Receive, send: Send) -> None:
    """Respond with the path's number, after as many milliseconds."""
    milliseconds = natural(scope["path"][len("/delay/") :].encode(errors="replace"))
    if milliseconds is None or milliseconds > LONGEST_DELAY:
        await _respond(scope, send, 400, b"milliseconds must be a number from 0 to %d" % LONGEST_DELAY)
        return
    if milliseconds:
        await asyncio.sleep(0)  # inline: this moves it to the loop, where it may wait
        await asyncio.sleep((milliseconds + 1) / 1000)  # uvloop's timers may end up to a millisecond early
    await _respond(scope, send, 200, b"%d" % milliseconds)


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Respond with the body as it came, and its type."""
    body = await _read_body(scope, receive, send, LARGEST_ECHO)
    if body is not None:
        kind = _first(scope["headers"], b"content-type")
        await _respond(scope, send, 200, body, BYTES if kind is None else (b"content-type", kind))


async def pipeline(scope: Message, _: Receive, send: Send) -> None:
    """Respond with ok."""
    await _respond(scope, send, 200, b"ok")


class Route(NamedTuple):
    """What responds, and to which methods."""

    handle: Application
    methods: tuple[str, ...]


ROUTES = {
    "/baseline11": Route(add, (*GET, "POST")),
    "/baseline2": Route(add, GET),
    "/delay/": Route(delay, GET),  # and any number behind it
    "/echo": Route(echo, ("POST",)),
    "/pipeline": Route(pipeline, GET),
}


def parse_sum(query: bytes) -> int | None:
    """Return the sum of all parameters of a query string, 0 if it has none.

    None if a value is no integer of 64 bits, or if there are more than PARAMETERS. A name may be anything.
    """
    if query.count(b"&") >= PARAMETERS:
        return None
    total = 0
    for parameter in query.split(b"&"):
        if parameter:  # a parser passes over what is empty (WHATWG URL, application/x-www-form-urlencoded)
            value = integer(parameter.partition(b"=")[2], INTEGER_MIN, INTEGER_MAX)
            if value is None:
                return None
            total += value
    return total


def build(json: Application) -> Application:
    """Return the application that responds by ROUTES, and leaves `/json` and everything but HTTP to `json`."""

    def app(scope: Message, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if scope["type"] != "http":
            return json(scope, receive, send)
        path = scope["path"]
        if path.startswith(PREFIX):
            return json(scope, receive, send)
        route = ROUTES.get(path) or ROUTES.get(path[: path.rfind("/") + 1])
        if route is None:
            return _respond(scope, send, 404, b"there is nothing here; see docs/arena.md")
        if scope["method"] not in route.methods:
            allowed = ", ".join(route.methods)
            return _respond(scope, send, 405, f"it takes {allowed}".encode(), TEXT, (b"allow", allowed.encode()))
        return route.handle(scope, receive, send)

    return app


def __getattr__(name: str) -> Application:
    """Build `app` when a server asks for it, as app/__init__.py does."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    globals()["app"] = made = build(application.build(catalogue.load(start.taken().environment)))
    return made


async def _read_body(scope: Message, receive: Receive, send: Send, limit: int) -> bytes | None:
    """Return the request's body; None if nothing is left to do, as the client has been sent a 400 or 413.

    Of a body of more than `limit` bytes the rest is read and dropped, so that the connection's next request is found
    behind it. If that is more than LARGEST_DROPPED, the connection is closed instead.
    """
    stated = _first(scope["headers"], b"content-length")
    length = None if stated is None else natural(stated)
    most = limit + LARGEST_DROPPED
    body, size = bytearray(), 0
    more = True
    while more and size <= most and (length is None or length <= most):
        message = await receive()
        if message["type"] == "http.disconnect":  # or what came is no body: hyper says no more than that
            await _respond(scope, send, 400, b"the body has no end", TEXT, *_closing(scope))
            return None
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            body += part
        # The end of a stated length needs no further message, which would be another turn of the loop.
        more = message.get("more_body", False) and size != length
    if not more and size <= limit:
        return bytes(body)
    reason = b"a body has up to %d bytes here" % limit
    await _respond(scope, send, 413, reason, TEXT, *(_closing(scope) if more else ()))
    return None


def _closing(scope: Message) -> tuple[Header, ...]:
    return () if scope["http_version"] == "2" else (CLOSE,)  # RFC 9113, section 8.2.2


def _first(headers: Iterable[Header], wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)


async def _respond(scope: Message, send: Send, status: int, body: bytes, kind: Header = TEXT, *headers: Header) -> None:
    head = [kind, (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})

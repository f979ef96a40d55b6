"""ASGI middleware: the cookies of an HTTP/2 request as one field.

A client of HTTP/2 may send each cookie as a field of its own, and browsers do. RFC 9113, section 8.2.3, has them joined
before they are passed to what does not know that: Granian passes them as they came (docs/upstream.md, o), of which
Litestar then reads the first alone, and Django a wrong value.
"""

from collections.abc import Awaitable

from app.launcher.asgi import Application, Message, Receive, Send

COOKIE = b"cookie"


class JoinedCookies:
    """Join the Cookie fields of a request, in the place of the first."""

    def __init__(self, application: Application) -> None:
        self.application = application

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the application's coroutine: there is none of our own around it."""
        if scope["type"] == "http" and scope["http_version"] == "2":
            values = [value for name, value in scope["headers"] if name == COOKIE]
            if len(values) > 1:
                scope = {**scope, "headers": _with_one(scope["headers"], b"; ".join(values))}
        return self.application(scope, receive, send)


def _with_one(headers: list[tuple[bytes, bytes]], cookies: bytes) -> list[tuple[bytes, bytes]]:
    first = next(index for index, (name, _) in enumerate(headers) if name == COOKIE)
    others = [(index, header) for index, header in enumerate(headers) if index == first or header[0] != COOKIE]
    return [(COOKIE, cookies) if index == first else header for index, header in others]

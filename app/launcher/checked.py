"""What an application sends, without what ends or stops its worker, or reaches clients as something else.

That is Granian's (2.8.7); docs/upstream.md, C and o.
"""

import asyncio
import itertools
from collections.abc import Awaitable

from app.launcher.asgi import Application, Message, Receive, Send
from app.launcher.bodies import Body, with_bytes
from app.launcher.log import warn
from app.settings.errors import shown

MOST_HEADERS = 20_000
"""Of a response: http::HeaderMap has room for 24,576 names, and Granian adds some."""
LONGEST_REASON = 123
"""Bytes of what a close frame says: a control frame has 125, and two are the code's (RFC 6455, section 5.5)."""

LONGEST_REFUSAL = 2**20
"""Bytes of the body with which an application refuses a WebSocket: Granian takes one part, so that all are kept."""

TURN = 64
"""Messages after which others have a turn: once its client has left, Granian's `send` never waits.

Not before one is sent: what another task sends would overtake it.
"""
FILES = "http.response.pathsend"
"""An extension that is not offered: Granian opens a file once `send` has returned, and the application may have removed it."""


class Checked:
    """ASGI middleware that raises ValueError or TypeError in the application for what cannot be sent as it is.

    That is a status, headers or a subprotocol that Granian's Rust panics at, a body that has not the length that its
    headers say, and a message of a WebSocket that is no text, or no bytes. A header that comes more than once in the
    refusal of a WebSocket is sent once, and a reason for its close as far as there is room. What is dropped is reported
    once.
    """

    def __init__(self, application: Application) -> None:
        """Pass every call on to `application`."""
        self.application = application
        self._reported: set[str] = set()

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the application's coroutine."""
        if scope["type"] == "http":
            scope.get("extensions", {}).pop(FILES, None)
            body = Body(scope["method"], scope["http_version"])
            return self.application(scope, _noting(receive, body), _for_http(send, body))
        if scope["type"] == "websocket":
            return self.application(scope, receive, self._for_web_socket(send))
        return self.application(scope, receive, send)

    def _for_web_socket(self, send: Send) -> Send:
        sent = itertools.count(1)
        body, refusal = Body("GET", "1.1"), bytearray()

        async def send_checked(message: Message) -> None:
            if message["type"] == "websocket.http.response.start":
                message = self._without_repetition(body.start(_checked_start(message)))
            elif message["type"] == "websocket.http.response.body":
                _join(refusal, message)
                if message.get("more_body"):  # Granian sends one
                    await _let_others_go()
                    return
                message, _ = body.part({**message, "body": bytes(refusal)})  # type: ignore[assignment]
            elif message["type"] == "websocket.close":
                message = _with_short_reason(message)
            elif message["type"] == "websocket.send":
                message = _checked_message(message)
            elif message["type"] == "websocket.accept":
                self._check_accept(message)
            await send(message)
            if next(sent) % TURN == 0:
                await _let_others_go()

        return send_checked

    def _check_accept(self, message: Message) -> None:
        """Report headers, which Granian drops. Raises ValueError for a subprotocol that cannot be sent."""
        if not (message.get("subprotocol") or "").isprintable():
            raise ValueError(
                f"subprotocol={message['subprotocol']!r} is no token (RFC 6455, section 4.1); give one that can be printed"
            )
        if message.get("headers"):
            self._report("a WebSocket is accepted with headers; Granian drops them, so send what they say as a message")

    def _report(self, what: str) -> None:
        """Say it once."""
        if what not in self._reported:
            self._reported.add(what)
            warn(what)

    def _without_repetition(self, message: Message) -> Message:
        """Return a refusal in which each header comes once: the last of its name."""
        headers = {bytes(name).lower(): value for name, value in message.get("headers", ())}
        if len(headers) == len(list(message.get("headers", ()))):
            return message
        self._report(
            "a response that refuses a WebSocket has a header more than once; Granian can send the last one alone"
        )
        return {**message, "headers": list(headers.items())}


def _join(refusal: bytearray, part: Message) -> None:
    """Add a part to a refusal's body. Raises ValueError if that is too long, and TypeError if the part is not bytes."""
    body = with_bytes(part, "body").get("body", b"")
    if len(refusal) + len(body) > LONGEST_REFUSAL:
        raise ValueError(f"the refusal of a WebSocket has more than {LONGEST_REFUSAL} bytes; make it shorter")
    refusal += body


async def _let_others_go() -> None:
    """Give others a turn on the event loop; inline it would move the request there, away from its thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    await asyncio.sleep(0)


def _noting(receive: Receive, body: Body) -> Receive:
    async def receive_noted() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            body.client_has_left = True
        return message

    return receive_noted


def _for_http(send: Send, body: Body) -> Send:
    sent = itertools.count(1)
    turn = asyncio.Lock()  # of the application's tasks: Granian's messages may overtake each other

    async def send_checked(message: Message) -> None:
        checked: Message | None = message
        error = None
        if message["type"] == "http.response.start":
            checked = body.start(_checked_start(message))
        elif message["type"] == "http.response.body":
            checked, error = body.part(message)
        if checked is not None:
            async with turn:
                await send(checked)
        if error is not None:
            raise error
        if next(sent) % TURN == 0:
            await _let_others_go()

    return send_checked


def _checked_message(message: Message) -> Message:
    """Return what a WebSocket's client gets. Raises ValueError or TypeError for a text that is none (RFC 3629)."""
    text = message.get("text")
    if text is None:
        return with_bytes(message, "bytes")
    if not isinstance(text, str):
        raise TypeError(f"the text of a WebSocket's message is {type(text).__name__}; give str, or bytes as bytes")
    if not text.isascii():
        text.encode()
    return message


def _checked_start(message: Message) -> Message:
    """Return the start of a response. Raises ValueError if it cannot be sent."""
    _check_status(message["status"])
    headers = message.get("headers", ())
    if not hasattr(headers, "__len__"):  # a generator, which gives them once
        headers = list(headers)
        message = {**message, "headers": headers}
    if len(headers) > MOST_HEADERS:
        raise ValueError(f"a response has {len(headers)} headers; give it {MOST_HEADERS} at most")
    return message


def _with_short_reason(message: Message) -> Message:
    """Return a close whose reason has room in a frame: it ends after a whole character."""
    reason = message.get("reason")
    if not isinstance(reason, str):
        return message
    encoded = reason.encode(errors="replace")  # a lone surrogate, for which Granian sends no reason at all
    return {**message, "reason": encoded[:LONGEST_REASON].decode(errors="ignore")}


def _check_status(status: int) -> None:
    """Raise ValueError for what is no status code of a response that has an end (RFC 9110, sections 15 and 15.2)."""
    if not 200 <= status <= 999:
        raise ValueError(f"status={shown(status)} is no HTTP status of a final response; give one from 200 to 999")

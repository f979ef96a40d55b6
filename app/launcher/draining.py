"""How a server process is drained: two signals from the launcher, and what responses say in the first phase."""

import signal
from collections.abc import Awaitable, Callable
from typing import Any

CLOSE_NOTICE = signal.SIGUSR1
"""To a server process and its workers: send `Connection: close` on every response from now on."""
DRAIN = signal.SIGUSR2
"""To a server process, which passes it on to its workers: accept no more, finish what was received, end."""

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

CLOSE = (b"connection", b"close")


class CloseNotice:
    """ASGI middleware that sends `Connection: close` on every HTTP/1.1 response once `begin` was called.

    The client then knows that the connection ends with the response (RFC 9112, section 9.6), and sends its next
    request on another. HTTP/2 has no such header (RFC 9113, section 8.2.2).
    """

    def __init__(self, application: Application) -> None:
        """Pass every call on to `application`."""
        self.application = application
        self.begun = False

    def begin(self) -> None:
        """Send the notice from now on."""
        self.begun = True

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the application's coroutine: there is no coroutine of our own around it."""
        if self.begun and scope["type"] == "http" and scope["http_version"] != "2":
            return self.application(scope, receive, _with_close(send))
        return self.application(scope, receive, send)


def _with_close(send: Send) -> Send:
    async def send_with_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [header for header in message.get("headers", ()) if header[0].lower() != b"connection"]
            message = {**message, "headers": [*headers, CLOSE]}
        await send(message)

    return send_with_close

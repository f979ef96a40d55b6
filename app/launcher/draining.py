"""How a server process is drained: two signals from the launcher, and what the application's clients see of it."""

import mmap
import os
import select
import signal
import time
from collections.abc import Awaitable, Callable

from app.launcher.asgi import Application, Message, Receive, Send
from app.launcher.lifespan import Lifespan
from app.launcher.lingering import Lingering
from app.launcher.web_sockets import CLOSE, WebSockets

# Real-time signals: SIGUSR1 and SIGUSR2 are what an application would take (faulthandler.register).
CLOSE_NOTICE = signal.SIGRTMIN + 5
"""To a server process: send `Connection: close` on every response from now on."""
DRAIN = signal.SIGRTMIN + 6
"""To a server process, which passes it on to its workers: accept no more, finish what was received, end."""

EVENTS = b"text/event-stream"
"""The type of content whose response Granian begins before there is any."""


class Draining:
    """ASGI middleware that tells clients, and the application, what happens to the worker."""

    def __init__(
        self,
        name: str,
        application: Application,
        requests_done: Callable[[], Awaitable[None]],
        web_sockets: WebSockets,
        *,
        may_wait: bool = True,
    ) -> None:
        """Pass every call on to `application`; `name` is its listener's, for what is reported.

        If that never waits before it responds, a close notice is looked for when a request comes: its responses then pass
        through nothing of ours.
        """
        self.name = name
        self.may_wait = may_wait
        self.web_sockets = web_sockets
        self.application = application
        self.requests_done = requests_done
        self.notice = mmap.mmap(-1, 1)  # shared with the workers: a signal to all would end what they have executed
        self._notice_sent = os.eventfd(0)  # likewise
        self.on_started: Callable[[], None] = lambda: None  # of a worker: its startup is over
        self._lifespan: Lifespan | None = None
        self.lingering: Lingering | None = None

    def send_close_notice(self) -> None:
        """Send `Connection: close` on every HTTP/1.1 response from now on.

        The client then knows that the connection ends with the response (RFC 9112, section 9.6), and sends its next
        request on another. HTTP/2 has no such header (RFC 9113, section 8.2.2).
        """
        self.notice[0] = 1
        os.eventfd_write(self._notice_sent, 1)

    def await_close_notice(self, lingering: Lingering) -> None:
        """Have connections linger from the close notice on; for a thread of the worker."""
        self.lingering = lingering
        notice = select.poll()
        notice.register(self._notice_sent, select.POLLIN)
        if notice.poll()[0][1] & select.POLLIN:  # else an application has closed it
            lingering.begin()

    async def before_drain(self) -> None:
        """Close the WebSockets that are open, and those that are accepted later, with 1012: clients may connect again."""
        self.web_sockets.restarting = True
        if self._lifespan is not None:
            self._lifespan.keep_state()
        if self.lingering is not None:
            await self.lingering.before_drain(self.web_sockets.clients())
            left = self.lingering.end() - time.monotonic()
            self.web_sockets.patience = min(self.web_sockets.patience, left / 2)  # the other half is the application's
        await self.web_sockets.close()

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the application's coroutine: for a request there is none of our own around it."""
        kind = scope["type"]
        if kind == "http":
            if (self.may_wait or self.notice[0]) and scope["http_version"] != "2":
                return self.application(scope, receive, self._with_close(send))
            return self.application(scope, receive, send)
        if kind == "websocket":
            return self.web_sockets.run(self.application, scope, receive, send)
        self._lifespan = Lifespan(self.name, receive, send, self.requests_done, self.on_started)
        return self._lifespan.run(self.application, scope)

    def _with_close(self, send: Send) -> Send:
        """Keep the start of a response until its first part: Granian does so, too (2.8.7), but for event streams."""
        start: Message | None = None
        has_begun = False

        async def send_with_close(message: Message) -> None:
            nonlocal start, has_begun
            if start is not None:
                kept, start = start, None
                await send(self._noticed(kept))
            elif not has_begun:
                has_begun = True
                if message["type"] == "http.response.start":
                    if not _is_event_stream(message):
                        start = message
                        return
                    message = self._noticed(message)
            await send(message)

        return send_with_close

    def _noticed(self, start: Message) -> Message:
        if not self.notice[0]:
            return start
        headers = [header for header in start.get("headers", ()) if header[0].lower() != b"connection"]
        return {**start, "headers": [*headers, CLOSE]}


def _is_event_stream(start: Message) -> bool:
    headers = start.get("headers", ())
    return any(value.startswith(EVENTS) and name.lower() == b"content-type" for name, value in headers)

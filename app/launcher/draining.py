"""How a server process is drained: two signals from the launcher, and what the application's clients see of it."""

import asyncio
import math
import mmap
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from app.launcher.asgi import Application, Message, Receive, Send
from app.launcher.lifespan import Lifespan
from app.launcher.log import warn
from app.launcher.receiving import Inbox

# Real-time signals: SIGUSR1 and SIGUSR2 are what an application would take (faulthandler.register).
CLOSE_NOTICE = signal.SIGRTMIN + 5
"""To a server process: send `Connection: close` on every response from now on."""
DRAIN = signal.SIGRTMIN + 6
"""To a server process, which passes it on to its workers: accept no more, finish what was received, end."""
CLOSE_FRAMES = 0.5  # seconds for the close frames of all WebSockets
REMINDER = 60.0  # seconds between lines about too many of them
PUSHES = 1.0  # seconds for which an application may send to a WebSocket that has been closed

CLOSE = (b"connection", b"close")
RESTARTING = "the server restarts"
ENDED = "the application has ended its call for this WebSocket"
UNREAD = "the server restarts, and the client does not read"
LEFT = "the client has left"
NORMAL_CLOSURE, SERVICE_RESTART = 1000, 1012  # RFC 6455, section 7.4.2, and IANA's registry of WebSocket close codes


class GoneError(ConnectionAbortedError):
    """Nobody gets what an application sends to a WebSocket (ASGI, "Disconnected Client - send exception")."""


class Draining:
    """ASGI middleware that tells clients, and the application, what happens to the worker."""

    def __init__(self, name: str, application: Application, requests_done: Callable[[], Awaitable[None]]) -> None:
        """Pass every call on to `application`; `name` is its listener's, for what is reported."""
        self.name = name
        self.application = application
        self.requests_done = requests_done
        self.notice = mmap.mmap(-1, 1)  # shared with the workers: a signal to all would end what they have executed
        self.on_started: Callable[[], None] = lambda: None  # of a worker: its startup is over
        self.restarting = False
        self.web_sockets: set[_WebSocket] = set()
        self.most_web_sockets = math.inf
        self._next_line = 0.0  # when it may be reported again that there are so many (time.monotonic)
        self._lifespan: Lifespan | None = None

    def send_close_notice(self) -> None:
        """Send `Connection: close` on every HTTP/1.1 response from now on.

        The client then knows that the connection ends with the response (RFC 9112, section 9.6), and sends its next
        request on another. HTTP/2 has no such header (RFC 9113, section 8.2.2).
        """
        self.notice[0] = 1

    async def before_drain(self) -> None:
        """Close the WebSockets that are open, and those that are accepted later, with 1012: clients may connect again."""
        self.restarting = True
        if self._lifespan is not None:
            self._lifespan.keep_state()
        # A copy: inline, another thread may add one meanwhile.
        closing = {asyncio.ensure_future(each.close()): each for each in list(self.web_sockets) if each.accepted}
        if closing:
            _, unread = await asyncio.wait(closing, timeout=CLOSE_FRAMES)
            # What waits for a client that reads nothing would abort the worker when Granian's runtime ends (2.8.7).
            for close in unread:
                close.cancel()
                closing[close].give_up(UNREAD)

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the application's coroutine: for a request there is none of our own around it."""
        kind = scope["type"]
        if kind == "http":
            if self.notice[0] and scope["http_version"] != "2":
                return self.application(scope, receive, _with_close(send))
            return self.application(scope, receive, send)
        if kind == "websocket":
            return self._web_socket(scope, receive, send)
        self._lifespan = Lifespan(self.name, receive, send, self.requests_done, self.on_started)
        return self._lifespan.run(self.application, scope)

    async def _web_socket(self, scope: Message, receive: Receive, send: Send) -> None:
        if len(self.web_sockets) >= self.most_web_sockets:
            await self._refuse(receive, send)
            return
        one = _WebSocket(self, receive, send)
        self.web_sockets.add(one)
        try:
            await self.application(scope, one.receive, one.send)
        except* GoneError:  # of its tasks, too: one that does not expect it ends as it should
            pass
        finally:
            one.give_up(ENDED)  # tasks that it has left may send still
            self.web_sockets.discard(one)

    async def _refuse(self, receive: Receive, send: Send) -> None:
        """Respond with 503 (RFC 9110, section 15.6.4): Granian's backpressure does not count WebSockets (2.8.7)."""
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + REMINDER
            warn(
                f"listener {self.name}: a worker has {len(self.web_sockets)} WebSockets open, and refuses more with 503;"
                f" raise backpressure, or the limit on open files (ulimit -Hn), or WORKERS"
            )
        await receive()  # websocket.connect
        with suppress(RuntimeError):  # the client has left
            await send({"type": "websocket.http.response.start", "status": 503, "headers": [CLOSE]})
            await send({"type": "websocket.http.response.body", "body": b"too many WebSockets\n"})


class _WebSocket:
    """A WebSocket that is closed by the server process, if it has to be, while the application waits for a message."""

    def __init__(self, worker: Draining, receive: Receive, send: Send) -> None:
        self.worker = worker
        self._inbox = Inbox(receive)
        self._send = send
        self._sending: set[Any] = set()  # awaitables of Granian's that its tasks wait for, which can be cancelled
        self._given_up = ""  # why nothing is waited for any more
        self._ends = math.inf  # when sending without an effect has to end (time.monotonic)
        self.accepted = False
        self.closed = False
        self._close_sent: asyncio.Future[None] | None = None  # done when a close frame has been sent
        self._disconnect: Message = {}  # what the application receives from then on

    async def receive(self) -> Message:
        if self._close_sent and not self._inbox.has_message:
            return await self._closed(self._close_sent)
        try:
            message = await self._inbox.receive()
        except asyncio.CancelledError:
            if (close_sent := self._close_sent) is None:  # it is the application that was cancelled
                raise
            return await self._closed(close_sent)
        if message["type"] == "websocket.disconnect":
            self.closed = True
        return message

    async def send(self, message: Message) -> None:
        if self._given_up or self.closed:
            await asyncio.sleep(0)  # it may send again and again, without ever letting others go first
            if self._given_up or time.monotonic() > self._ends:
                raise GoneError(self._given_up or RESTARTING)
            return  # the application does not know yet: its next `receive` says so
        if message["type"] == "websocket.close":
            await self._close(message, message.get("code") or NORMAL_CLOSURE, message.get("reason") or "")
            return
        if self.accepted:
            if self._inbox.has_disconnect:  # Granian would take what is sent, and keep it
                raise GoneError(LEFT)
            self._inbox.ask()
        await self._wait_to_send(message)
        if message["type"] == "websocket.accept":
            self.accepted = True
            if self.worker.restarting:
                await self.close()

    async def _wait_to_send(self, message: Message) -> None:
        sending: Any = self._send(message)
        self._sending.add(sending)
        try:
            await sending
        except asyncio.CancelledError:
            if self._given_up:  # else it is the application that was cancelled
                raise GoneError(self._given_up) from None
            raise
        finally:
            self._sending.discard(sending)

    async def close(self) -> None:
        """Close it, as the server restarts; if the application has closed it, wait until that is done."""
        if self._close_sent:
            await asyncio.wait([self._close_sent])
        elif not self.closed:
            self._ends = time.monotonic() + PUSHES
            message = {"type": "websocket.close", "code": SERVICE_RESTART, "reason": RESTARTING}
            with suppress(GoneError):  # the client does not read
                await self._close(message, SERVICE_RESTART, RESTARTING)

    async def _close(self, message: Message, code: int, reason: str) -> None:
        """Send a close. Granian does so when nobody waits for a message any more (2.8.7), so that ends first."""
        self.closed = True
        self._close_sent = asyncio.get_running_loop().create_future()
        self._disconnect = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self._inbox.cancel()
        try:
            await self._wait_to_send(message)
        finally:
            self._close_sent.set_result(None)

    def give_up(self, why: str) -> None:
        """Let the application wait for this client no longer: neither for its messages, nor to send it any."""
        self._given_up = why
        self._inbox.cancel()
        for each in list(self._sending):
            with suppress(AttributeError):  # it is there already
                each.cancel()

    async def _closed(self, close_sent: asyncio.Future[None]) -> Message:
        """Return the application's disconnect after the frame: Granian closes without one when the application ends."""
        await asyncio.wait([close_sent])
        return self._disconnect


def _with_close(send: Send) -> Send:
    async def send_with_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [header for header in message.get("headers", ()) if header[0].lower() != b"connection"]
            message = {**message, "headers": [*headers, CLOSE]}
        await send(message)

    return send_with_close

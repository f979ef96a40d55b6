"""A WebSocket as its application has it: closed by either side, given up, or left by its client."""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from app.launcher.asgi import Message, Receive, Send
from app.launcher.receiving import Inbox
from app.settings.errors import shown

PUSHES = 1.0  # seconds for which an application may send to a WebSocket that it knows to be closed

RESTARTING = "the server restarts"
ENDED = "the application has ended its call for this WebSocket"
UNREAD = "the server restarts, and the client does not read"
LEFT = "the client has left"
CLOSED = "the application has closed it"
# RFC 6455, section 7.4.1, and IANA's registry of WebSocket close codes
NORMAL_CLOSURE, ABNORMAL_CLOSURE, SERVICE_RESTART = 1000, 1006, 1012
CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
"""What a close frame may have."""


class GoneError(ConnectionAbortedError):
    """Nobody gets what an application sends to a WebSocket (ASGI, "Disconnected Client - send exception")."""


def _is_cancelled() -> bool:
    """Return whether the calling task is cancelled: by the application."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class WebSocket:
    """A WebSocket that is closed by the server process, if it has to be, while the application waits for a message."""

    def __init__(self, scope: Message, receive: Receive, send: Send, is_restarting: Callable[[], bool]) -> None:
        """Do nothing yet; `is_restarting` says whether it is to be closed as soon as it is accepted."""
        self._is_restarting = is_restarting
        self._receive = receive
        self._connected = False
        self._inbox = Inbox(receive)
        self._send = send
        self._turn = asyncio.Lock()  # of its tasks, to send: Granian's messages may overtake each other (2.8.7)
        self._sending: Any = None  # an awaitable of Granian's that one of them waits for, which can be cancelled
        self._given_up = ""  # why nothing is waited for any more
        self._ends = math.inf  # when sending without an effect has to end (time.monotonic), and why there is none
        self._over = RESTARTING
        self._heard_until = math.inf  # when what has been read ahead is received no more
        self.accepted = False
        self.closed = False
        self._close_sent: asyncio.Future[None] | None = None  # done when a close frame has been sent
        self._disconnect: Message = {"type": "websocket.disconnect", "code": ABNORMAL_CLOSURE, "reason": ""}
        self.client: tuple[str, str] | None = scope.get("client")

    async def receive(self) -> Message:
        """Return the application's next message; a disconnect once it is closed, or given up."""
        if not self._connected and not self.closed:
            self._connected = True
            return await self._receive()  # websocket.connect is there at once, and comes first whatever else has ended
        if self._close_sent and not (self._inbox.has_message and time.monotonic() < self._heard_until):
            return await self._closed(self._close_sent)
        try:
            message = await self._inbox.receive()
        except asyncio.CancelledError:
            if not self._inbox.is_over or _is_cancelled():
                raise
            return await self._closed(self._close_sent)
        if message["type"] == "websocket.disconnect":
            self.closed = True
            self._end_soon(LEFT)  # one of its tasks knows, though another may go on
        elif self._close_sent:  # it may respond to what came before the close, to no effect
            self._ends = time.monotonic() + PUSHES
        return message

    async def send(self, message: Message) -> None:
        """Take a message of the application's.

        Raises GoneError if its client has left, or will not read it, or ValueError for a code that cannot be sent.
        """
        if self._given_up or self.closed:
            if self._close_sent and not self._close_sent.done():  # its client is slow to take what was sent before
                await asyncio.wait([self._close_sent])
            await asyncio.sleep(0)  # it may send again and again, without ever letting others go first
            if self._given_up or (message["type"] != "websocket.close" and time.monotonic() > self._ends):
                raise GoneError(self._given_up or self._over)
            return  # the application does not know yet: its next `receive` says so
        if message["type"] == "websocket.close":
            if self._is_restarting() and not self.accepted:
                await self._refuse()
                return
            code = message.get("code") or NORMAL_CLOSURE
            if self.accepted and code not in CODES:
                raise ValueError(
                    f"code={shown(code)} may not be in a close frame (RFC 6455, section 7.4); give {NORMAL_CLOSURE}"
                )
            await self._close(message, code, message.get("reason") or "")
            self._end_soon(CLOSED)
            return
        await self._wait_to_send(message)
        if message["type"] == "websocket.accept":
            self.accepted = True
            if self._is_restarting():
                await self.close()

    async def _wait_to_send(self, message: Message) -> None:
        async with self._turn:
            if self._given_up:
                raise GoneError(self._given_up)
            self._sending = self._send(message)
            try:
                await self._sending
            except asyncio.CancelledError:
                if not _is_cancelled() and self._given_up:
                    raise GoneError(self._given_up) from None
                raise
            except RuntimeError as error:
                if self.accepted or self.closed:
                    raise
                raise GoneError(LEFT) from error  # Granian takes it for one that is upgraded (2.8.7)
            finally:
                self._sending = None

    async def _refuse(self) -> None:
        """Respond with 403 in a drain; before, Granian does so if an application closes what it has not accepted (2.8.7)."""
        self.closed = True
        with suppress(RuntimeError, GoneError):  # the client has left
            await self._wait_to_send({"type": "websocket.http.response.start", "status": 403, "headers": []})
            await self._wait_to_send({"type": "websocket.http.response.body", "body": b""})

    @property
    def arrivals(self) -> int:
        """How many messages have been asked for: one more with each that comes."""
        return self._inbox.arrivals

    def read_ahead(self, seconds: float) -> None:
        """Read what its client has sent before it is closed; the application has `seconds` to receive that."""
        self._heard_until = time.monotonic() + seconds
        self._inbox.read_ahead()

    async def close(self) -> None:
        """Close it, as the server restarts; if the application has closed it, wait until that is done."""
        if self._close_sent:
            await asyncio.wait([self._close_sent])
        elif not self.closed:
            message = {"type": "websocket.close", "code": SERVICE_RESTART, "reason": RESTARTING}
            with suppress(GoneError):  # the client does not read
                await self._close(message, SERVICE_RESTART, RESTARTING)
            self._end_soon(RESTARTING)

    def _end_soon(self, why: str) -> None:
        if math.isinf(self._ends):
            self._ends, self._over = time.monotonic() + PUSHES, why

    async def _close(self, message: Message, code: int, reason: str) -> None:
        """Send a close. Granian does so when nobody waits for a message any more (2.8.7), so that ends first."""
        self.closed = True
        self._disconnect = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self._inbox.cancel()
        close_sent: asyncio.Future[None] | None = None
        with suppress(RuntimeError):  # inline, before its first message: there is no loop, and nobody waits
            self._close_sent = close_sent = asyncio.get_running_loop().create_future()
        try:
            await self._wait_to_send(message)
        finally:
            if close_sent is not None:
                close_sent.set_result(None)

    def stop_receiving(self) -> None:
        """Let the application wait for no message of this client any more: it is told of a disconnect."""
        self._inbox.cancel()

    def give_up(self, why: str) -> None:
        """Let the application wait for this client no longer: neither for its messages, nor to send it any."""
        self._inbox.cancel()
        self._stop_sending(why)

    def leave(self) -> None:
        """Let the application send nothing to a client that has left; it may receive what that has sent before."""
        if not self.accepted:  # Granian would not tell it (2.8.7)
            self._inbox.cancel()
        self._stop_sending(LEFT)

    def _stop_sending(self, why: str) -> None:
        self._given_up = why
        with suppress(AttributeError):  # there is none, or it is there already
            self._sending.cancel()

    async def _closed(self, close_sent: asyncio.Future[None] | None) -> Message:
        """Return the application's disconnect after the frame: Granian closes without one when the application ends."""
        if close_sent is not None:
            await asyncio.wait([close_sent])
        return self._disconnect

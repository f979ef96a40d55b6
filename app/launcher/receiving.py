"""What a client sends, for an application that may stop waiting for it: nothing is lost (docs/upstream.md, E)."""

import asyncio
from collections.abc import Awaitable

from app.launcher.asgi import Application, Message, Receive, Send


class Inbox:
    """The messages of a request or a WebSocket.

    Granian drops what it has read if the call that has asked for it is cancelled, as asyncio.wait_for does. Such a call
    goes on here, and its message is there for whoever waits next.
    """

    def __init__(self, receive: Receive) -> None:
        """Ask for nothing yet; `receive` is Granian's."""
        self._receive = receive
        self._turn = asyncio.Lock()  # an application may wait in several tasks
        self._next: asyncio.Future[Message] | None = None
        self.is_over = False

    async def receive(self) -> Message:
        """Return the next message. Raises CancelledError after `cancel`."""
        async with self._turn:
            if not self._ask():
                return await self._receive()
            if (message := self._next) is None or (self.is_over and not message.done()):
                raise asyncio.CancelledError
            try:
                received = await asyncio.shield(message)
            except asyncio.CancelledError:
                if message.cancelled():  # else whoever waits here is: it is kept, even if it has just come
                    self._next = None
                raise
            except BaseException:
                self._next = None
                raise
            self._next = None
            return received

    def _ask(self) -> bool:
        """Ask for the next message; return whether that can be done here.

        An application that runs inline may wait where there is no event loop; nothing can cancel it there.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if self._next is None and not self.is_over:
            self._next = asyncio.ensure_future(self._receive(), loop=loop)
        return True

    @property
    def has_message(self) -> bool:
        """Whether a message has come that nobody has received yet."""
        return self._next is not None and self._next.done() and not self._next.cancelled()

    def cancel(self) -> None:
        """Ask for nothing any more, and end every call of `receive` that has no message."""
        self.is_over = True
        if self._next is not None:
            self._next.cancel()  # nothing, if it has come


class WholeBodies:
    """ASGI middleware that gives each request an Inbox: a part of a body that was lost would not be missed."""

    def __init__(self, application: Application) -> None:
        """Pass every call on to `application`."""
        self.application = application

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the application's coroutine."""
        if scope["type"] == "http":
            return self._request(scope, Inbox(receive), send)
        return self.application(scope, receive, send)

    async def _request(self, scope: Message, inbox: Inbox, send: Send) -> None:
        try:
            await self.application(scope, inbox.receive, send)
        finally:
            inbox.cancel()  # it would wait until the client has left

"""What a client sends, for an application that may stop waiting for it: nothing is lost (docs/upstream.md, E)."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable

from app.launcher.asgi import Application, Message, Receive, Send

ROOM = 2**20  # bytes that are read ahead for an application that is busy
MESSAGE = 2**10  # what a message takes of it beside its own length
REST, REST_TIME = 2**20, 1.0  # bytes that are read of a body that its application has left, and seconds for them
TURN = 0.01  # seconds between looks at whether others have read it
WITHOUT_BODY = {"GET", "HEAD", "OPTIONS"}
"""Methods whose requests are taken to have no body, though they may: to look costs each of them."""


class Inbox:
    """The messages of a request or a WebSocket.

    Granian drops what it has read if the call that has asked for it is cancelled, as asyncio.wait_for does. Such a call
    goes on here, and its message is there for whoever waits next.
    """

    def __init__(self, receive: Receive) -> None:
        """Ask for nothing yet; `receive` is Granian's."""
        self._receive = receive
        self._turn = asyncio.Lock()  # an application may wait in several tasks
        self._asked: deque[asyncio.Future[Message]] = deque()  # all but the last have come
        self._room = 0  # for what is read ahead
        self.arrivals = 0
        self.is_over = False
        self.has_more = True  # of a request's body

    async def receive(self) -> Message:
        """Return the next message. Raises CancelledError after `cancel`."""
        try:
            async with self._turn:
                message = await self._receive_next()
            self.has_more = message.get("more_body", False)
            return message
        finally:
            self._read_on()

    async def _receive_next(self) -> Message:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # an application that runs inline may wait without a loop; nothing can cancel it there
            return await self._receive()
        if not self._asked and not self.is_over:
            self._ask(loop)
        if not self._asked or (self.is_over and not self._asked[0].done()):
            raise asyncio.CancelledError
        message = self._asked[0]
        try:
            received = await asyncio.shield(message)
        except asyncio.CancelledError:
            if message.cancelled():  # else whoever waits here is: it is kept, even if it has just come
                self._asked.popleft()
            raise
        except BaseException:
            self._asked.popleft()
            raise
        self._asked.popleft()
        if received["type"] == "websocket.disconnect":
            self._room = 0  # nothing comes after it
        return received

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        self.arrivals += 1
        self._asked.append(asyncio.ensure_future(self._receive(), loop=loop))

    def read_ahead(self) -> None:
        """Ask for one message after the other until `cancel`, as far as there is room; for a WebSocket, on its loop."""
        self._room = ROOM
        self._read_on()

    def _read_on(self, *_: object) -> None:
        """Ask for the next message if the last one has come. Granian's awaitables have one callback each (2.8.7)."""
        while self._room > 0 and not self.is_over:
            if not self._asked:
                self._ask(asyncio.get_running_loop())
            last = self._asked[-1]
            if not last.done():
                if len(self._asked) > 1 or not self._turn.locked():  # else it is waited for, and read on then
                    last.add_done_callback(self._read_on)
                return
            if last.cancelled() or last.exception() or last.result()["type"] != "websocket.receive":
                return
            self._room -= MESSAGE + len(last.result().get("bytes") or last.result().get("text") or "")
            if self._room > 0:
                self._ask(asyncio.get_running_loop())

    @property
    def is_waited_for(self) -> bool:
        """Whether a call of `receive` waits."""
        return self._turn.locked()

    @property
    def has_message(self) -> bool:
        """Whether a message has come that nobody has received yet."""
        return bool(self._asked) and self._asked[0].done() and not self._asked[0].cancelled()

    def cancel(self) -> None:
        """Ask for nothing any more, and end every call of `receive` that has no message."""
        self.is_over = True
        if self._asked:
            self._asked[-1].cancel()  # nothing, if it has come


class WholeBodies:
    """ASGI middleware that gives each request an Inbox: a part of a body that was lost would not be missed.

    A body that the application has left is read before the response ends: hyper would close the connection then, and what
    comes later makes the kernel reset it (RFC 9112, section 9.6), before a large response is there. Not if the client
    waits to be asked for it (Expect). Nor would the end of a body be missed: over HTTP/2, Granian takes a stream that its client has reset without an error (NO_ERROR, as proxies
    do) for a body that is complete (2.8.7; docs/upstream.md, J). It is one if it is as long as its Content-Length.
    """

    def __init__(self, application: Application) -> None:
        """Pass every call on to `application`."""
        self.application = application

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the application's coroutine."""
        if scope["type"] == "http":
            return self._request(scope, Inbox(receive), send)
        return self.application(scope, receive, send)

    async def _request(self, scope: Message, inbox: Inbox, send: Send) -> None:
        receive: Receive = inbox.receive
        if scope["http_version"] == "2":
            for name, value in scope["headers"]:
                if name == b"content-length" and value.isdigit():  # h2 lets an empty one through
                    receive = _to_its_end(receive, int(value))
        elif scope["method"] not in WITHOUT_BODY and not any(name == b"expect" for name, _ in scope["headers"]):
            send = _after_the_body(inbox, send)
        try:
            await self.application(scope, receive, send)
        finally:
            inbox.cancel()  # it would wait until the client has left


def _after_the_body(inbox: Inbox, send: Send) -> Send:
    """Return what sends a response, and reads what the application has left of the request's body before the last part."""
    left = math.inf  # bytes of the response
    is_through = False

    async def send_after_the_body(message: Message) -> None:
        nonlocal left, is_through
        if message["type"] == "http.response.start":
            left = next(
                (int(value) for name, value in message.get("headers", ()) if name.lower() == b"content-length"),
                math.inf,
            )
        elif message["type"] == "http.response.body" and not is_through:
            left -= len(message.get("body", b""))
            if left <= 0 or not message.get("more_body"):
                is_through = True
                await _drop_rest(inbox)
        await send(message)

    return send_after_the_body


async def _drop_rest(inbox: Inbox) -> None:
    left = REST
    try:
        async with asyncio.timeout(REST_TIME):
            while inbox.has_more and left > 0:
                if (
                    inbox.is_waited_for
                ):  # a task of the application's, perhaps for its client to leave: it gets what comes
                    await asyncio.sleep(TURN)
                else:
                    left -= len((await inbox.receive()).get("body", b""))
    except RuntimeError:  # it runs inline, where nothing can be waited for with a time-out
        return
    except TimeoutError:  # its client is slow, or sends less than it has said
        return


def _to_its_end(receive: Receive, length: int) -> Receive:
    """Return what receives a body of `length` bytes, and says that its client has left if it ends before."""
    left = length

    async def receive_whole() -> Message:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            left -= len(message.get("body", b""))
            if left > 0 and not message.get("more_body"):
                return {"type": "http.disconnect"}
        return message

    return receive_whole

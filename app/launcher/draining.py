"""How a server process is drained: two signals from the launcher, and what the application's clients see of it."""

import asyncio
import math
import mmap
import os
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue

from app.launcher.asgi import Application, Message, Receive, Send
from app.launcher.connections import INTERVAL, Peer, acknowledged, connections_to, packed
from app.launcher.lifespan import Lifespan
from app.launcher.lingering import Lingering
from app.launcher.log import warn
from app.launcher.web_socket import ENDED, UNREAD, GoneError, WebSocket

# Real-time signals: SIGUSR1 and SIGUSR2 are what an application would take (faulthandler.register).
CLOSE_NOTICE = signal.SIGRTMIN + 5
"""To a server process: send `Connection: close` on every response from now on."""
DRAIN = signal.SIGRTMIN + 6
"""To a server process, which passes it on to its workers: accept no more, finish what was received, end."""
QUIET, ARRIVED = 0.05, 0.3  # seconds without a message after which all have come, and that this may take
CLOSE_FRAMES = (
    0.5  # seconds in which a client has to take something, if the close frame of its WebSocket waits for that
)
FIRST_LOOK = 0.1  # seconds after which most have been sent
BETWEEN_LOOKS = 0.1  # seconds at least between looks who has left: clients can ask for them
REMINDER = 60.0  # seconds between lines about too many of them

CLOSE = (b"connection", b"close")


class Draining:
    """ASGI middleware that tells clients, and the application, what happens to the worker."""

    def __init__(self, name: str, application: Application, requests_done: Callable[[], Awaitable[None]]) -> None:
        """Pass every call on to `application`; `name` is its listener's, for what is reported."""
        self.name = name
        self.application = application
        self.requests_done = requests_done
        self.notice = mmap.mmap(-1, 1)  # shared with the workers: a signal to all would end what they have executed
        self._notice_sent = os.eventfd(0)  # likewise
        self.on_started: Callable[[], None] = lambda: None  # of a worker: its startup is over
        self.restarting = False
        self.web_sockets: set[WebSocket] = set()
        self._newest: dict[tuple[str, str], WebSocket] = {}  # by client, whose address others may have had before
        self._succeeded: SimpleQueue[WebSocket] = SimpleQueue()  # by one of their address
        self.most_web_sockets = math.inf
        self.port = 0
        self.patience = 1.0  # seconds of a drain for WebSockets: the rest of its deadline is the application's
        self._next_line = 0.0  # when it may be reported again that there are so many (time.monotonic)
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
        self.restarting = True
        if self._lifespan is not None:
            self._lifespan.keep_state()
        ones = list(self.web_sockets)  # a copy: inline, another thread may add one meanwhile
        if self.lingering is not None:
            await self.lingering.before_drain([each.client for each in ones if each.client])
        for each in ones:
            if not each.accepted:  # Granian would wait for ever, if the client has left (2.8.7)
                each.stop_receiving()
        accepted = [each for each in ones if each.accepted]
        await self._read_ahead([each for each in accepted if not each.closed])
        closing: dict[asyncio.Future[None], WebSocket] = {
            asyncio.ensure_future(each.close()): each for each in accepted
        }
        if closing:
            await self._give_up_unread(closing)

    async def _give_up_unread(self, closing: Mapping[asyncio.Future[None], WebSocket]) -> None:
        """Wait until all are closed; give up those whose client takes nothing of what was sent, after `patience` all.

        What waits for a client that reads nothing would abort the worker when Granian's runtime ends (2.8.7).
        """
        end = time.monotonic() + self.patience
        before: Mapping[Peer, int] | None = None
        while unread := (await asyncio.wait(closing, timeout=FIRST_LOOK if before is None else CLOSE_FRAMES))[1]:
            now = await self._taken(left) if (left := end - time.monotonic()) > 0 else {}
            for close in unread:
                peer = packed(*client) if (client := closing[close].client) else None
                if peer is None or peer not in now or (before is not None and before.get(peer) == now[peer]):
                    close.cancel()
                    closing[close].give_up(UNREAD)
            before = now

    async def _taken(self, seconds: float) -> Mapping[Peer, int]:
        """Return what clients have taken; nothing if that cannot be known within `seconds`."""
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[Mapping[Peer, int]] = loop.create_future()

        def look() -> None:
            try:
                result: Mapping[Peer, int] = acknowledged(self.port)
            except OSError:  # no descriptor is free
                result = {}
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(taken.set_result, result)

        try:
            threading.Thread(target=look, daemon=True).start()
        except RuntimeError:  # a limit on threads
            return {}
        await asyncio.wait([taken], timeout=seconds)
        return taken.result() if taken.done() else {}

    async def _read_ahead(self, ones: list[WebSocket]) -> None:
        """Read what has come: Granian drops what an application has not received when a WebSocket is closed (2.8.7)."""
        for each in ones:
            each.read_ahead(self.patience)
        end, before = time.monotonic() + ARRIVED, 0
        while (arrivals := sum(each.arrivals for each in ones)) != before and time.monotonic() < end:
            before = arrivals
            await asyncio.sleep(QUIET)

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
        one = WebSocket(scope, receive, send, lambda: self.restarting)
        self.web_sockets.add(one)
        if one.client is not None:
            if (former := self._newest.get(one.client)) is not None:
                self._succeeded.put(former)
            self._newest[one.client] = one
        try:
            await self.application(scope, one.receive, one.send)
        except* GoneError:  # of its tasks, too: one that does not expect it ends as it should
            pass
        finally:
            one.give_up(ENDED)  # tasks that it has left may send still
            self.web_sockets.discard(one)
            if one.client is not None and self._newest.get(one.client) is one:
                del self._newest[one.client]

    def watch_for_ever(self, port: int, loop: asyncio.AbstractEventLoop) -> None:
        """Look again and again which clients of WebSockets have left; for a thread of the worker.

        Granian says so to who receives alone, and takes what is sent to one that has left (docs/upstream.md, t).
        """
        succeeded: set[WebSocket] = set()
        while True:
            with suppress(Empty):  # a look at once, if another client has come from an address
                succeeded.add(self._succeeded.get(timeout=INTERVAL))
                while True:
                    succeeded.add(self._succeeded.get_nowait())
            with suppress(OSError, RuntimeError):  # no descriptor is free, or the loop has ended
                self.give_up_who_has_left(port, loop, succeeded)
                succeeded.clear()
            time.sleep(BETWEEN_LOOKS)

    def give_up_who_has_left(
        self, port: int, loop: asyncio.AbstractEventLoop, succeeded: Collection[WebSocket] = ()
    ) -> None:
        """Give up the WebSockets whose client has reset its connection to `port`. Raises OSError, RuntimeError.

        One of an address that another has come from has left if the address has one connection: with several it has
        connected to several of ours, and they are given up when none is left.
        """
        open_ones = [(packed(*each.client), each) for each in list(self.web_sockets) if each.client]
        if open_ones:
            there = Counter(peer for peer, _ in connections_to(port))
            for peer, each in open_ones:
                if not there[peer] or (there[peer] == 1 and each in succeeded):
                    loop.call_soon_threadsafe(each.leave)

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


def _with_close(send: Send) -> Send:
    async def send_with_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [header for header in message.get("headers", ()) if header[0].lower() != b"connection"]
            message = {**message, "headers": [*headers, CLOSE]}
        await send(message)

    return send_with_close

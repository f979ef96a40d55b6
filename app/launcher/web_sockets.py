"""The WebSockets of a worker: how many there may be, who has left, and how a drain closes them."""

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue

from app.launcher.asgi import Application, Message, Receive, Send
from app.launcher.connections import INTERVAL, Peer, acknowledged, connections_to, packed
from app.launcher.log import warn
from app.launcher.web_socket import ENDED, UNREAD, GoneError, WebSocket

QUIET, ARRIVED = 0.05, 0.3  # seconds without a message after which all have come, and that this may take
CLOSE_FRAMES = 0.5  # seconds in which a client has to take something, while its WebSocket's close frame waits for that
FIRST_LOOK = 0.1  # seconds after which most have been sent
BETWEEN_LOOKS = 0.1  # seconds at least between looks who has left: clients can ask for them
REMINDER = 60.0  # seconds between lines about too many of them
CLOSE = (b"connection", b"close")


class WebSockets:
    """Those that are open."""

    def __init__(self, name: str, port: int, most: float = math.inf, patience: float = 1.0) -> None:
        """Have none yet, and `most` at once; `name` and `port` are their listener's.

        A drain has `patience` seconds for them: the rest of its deadline is the application's.
        """
        self.name = name
        self.port = port
        self.most = most
        self.patience = patience
        self.restarting = False
        self.open: set[WebSocket] = set()
        self._newest: dict[tuple[str, str], WebSocket] = {}  # by client, whose address others may have had before
        self._succeeded: SimpleQueue[WebSocket] = SimpleQueue()  # by one of their address
        self._next_line = 0.0  # when it may be reported again that there are so many (time.monotonic)

    def clients(self) -> list[tuple[str, str]]:
        """Return who they are open with, as ASGI's scope says it."""
        return [each.client for each in list(self.open) if each.client]  # a copy: inline, another thread may add one

    async def close(self) -> None:
        """Close those that are open with 1012, once what has come is read; `restarting` does so with those that follow."""
        ones = list(self.open)
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
            left = end - time.monotonic()
            now = await self._taken(left) if left > 0 else {}
            if now is None:  # it may be known later
                continue
            for close in unread:
                peer = packed(*client) if (client := closing[close].client) else None
                if peer is None or peer not in now or (before is not None and before.get(peer) == now[peer]):
                    close.cancel()
                    closing[close].give_up(UNREAD)
            before = now

    async def _taken(self, seconds: float) -> Mapping[Peer, int] | None:
        """Return what clients have taken; None if that cannot be known now, and nothing if not within `seconds`."""
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[Mapping[Peer, int] | None] = loop.create_future()

        def look() -> None:
            try:
                result: Mapping[Peer, int] | None = acknowledged(self.port)
            except OSError:  # no descriptor is free
                result = None
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(taken.set_result, result)

        try:
            threading.Thread(target=look, daemon=True).start()
        except RuntimeError:  # a limit on threads
            return None
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

    async def run(self, application: Application, scope: Message, receive: Receive, send: Send) -> None:
        """Have the application handle one, or refuse it if there are too many."""
        if len(self.open) >= self.most:
            await self._refuse(receive, send)
            return
        one = WebSocket(scope, receive, send, lambda: self.restarting)
        self.open.add(one)
        if one.client is not None:
            if (former := self._newest.get(one.client)) is not None:
                self._succeeded.put(former)
            self._newest[one.client] = one
        try:
            await application(scope, one.receive, one.send)
        except* GoneError:  # of its tasks, too: one that does not expect it ends as it should
            pass
        finally:
            one.give_up(ENDED)  # tasks that it has left may send still
            self.open.discard(one)
            if one.client is not None and self._newest.get(one.client) is one:
                del self._newest[one.client]

    def watch_for_ever(self, loop: asyncio.AbstractEventLoop) -> None:
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
                self.give_up_who_has_left(loop, succeeded)
                succeeded.clear()
            time.sleep(BETWEEN_LOOKS)

    def give_up_who_has_left(self, loop: asyncio.AbstractEventLoop, succeeded: Collection[WebSocket] = ()) -> None:
        """Give up the WebSockets whose client has reset its connection. Raises OSError, RuntimeError.

        One of an address that another has come from has left if the address has one connection: with several it has
        connected to several of ours, and they are given up when none is left.
        """
        open_ones = [(packed(*each.client), each) for each in list(self.open) if each.client]
        if open_ones:
            there = Counter(peer for peer, _ in connections_to(self.port))
            for peer, each in open_ones:
                if not there[peer] or (there[peer] == 1 and each in succeeded):
                    loop.call_soon_threadsafe(each.leave)

    async def _refuse(self, receive: Receive, send: Send) -> None:
        """Respond with 503 (RFC 9110, section 15.6.4): Granian's backpressure does not count WebSockets (2.8.7)."""
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + REMINDER
            warn(
                f"listener {self.name}: a worker has {len(self.open)} WebSockets open, and refuses more with 503;"
                f" raise backpressure, or the limit on open files (ulimit -Hn), or WORKERS"
            )
        await receive()  # websocket.connect
        with suppress(RuntimeError):  # the client has left
            await send({"type": "websocket.http.response.start", "status": 503, "headers": [CLOSE]})
            await send({"type": "websocket.http.response.body", "body": b"too many WebSockets\n"})

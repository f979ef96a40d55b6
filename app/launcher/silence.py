"""Closing connections whose client never asks for anything.

With `protocol = "auto"` hyper waits for a request or for HTTP/2's preface without a time-out (docs/upstream.md, c),
whatever ALPN has chosen. So each worker looks at its own connections: one without a request under way, on which nothing
has come or gone for as long as a client of HTTP/2 may take to acknowledge a ping, is closed. Between two requests hyper
has closed it before, so it is one that has never brought any.
"""

import socket
import sys
import time
import weakref
from collections.abc import Awaitable
from contextlib import suppress

from app.launcher.asgi import Application, Message, Receive, Send
from app.launcher.connections import INTERVAL, Peer, connections_to, packed, unacknowledged

LAST_DATA_SENT, LAST_DATA_RECEIVED = slice(44, 48), slice(52, 56)  # of struct tcp_info (linux/tcp.h), milliseconds ago

Client = tuple[str, str | int]


class Silence:
    """ASGI middleware that notes which clients have a request under way, and closes others that are silent."""

    def __init__(self, application: Application, port: int, seconds: float) -> None:
        """Close a connection to `port` after `seconds` without a byte; longer than a client has for a ping."""
        self.application = application
        self.port = port
        self.seconds = seconds
        self.requests: dict[Client, set[object]] = {}

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the application's coroutine: there is none of our own around it.

        Its client is noted with all of its requests that are under way: an address is several connections' if it has
        connected to several of ours, or with HTTP/2. It may be another connection's when they have ended.
        """
        coroutine = self.application(scope, receive, send)
        if client := scope.get("client"):
            ones = self.requests.get(client, set())
            try:
                ones.add(weakref.ref(coroutine, ones.discard))
            except TypeError:  # an awaitable of the application's own that cannot be referred to: as if it never ended
                ones.add(None)
            self.requests[client] = ones  # even if it was there: `close` may have forgotten it meanwhile
        return coroutine

    def close_for_ever(self) -> None:
        """Look again and again; for a thread of the worker."""
        while True:
            time.sleep(INTERVAL)
            with suppress(OSError):  # no descriptor is free for the listing: another look has one
                self.close()

    def close(self) -> None:
        """Close the connections that are silent now, and forget the clients that have gone. Raises OSError."""
        requests = {packed(*client): (client, ones) for client, ones in self.requests.copy().items()}
        seen: set[Peer] = set()
        for peer, connection in connections_to(self.port):
            seen.add(peer)
            with suppress(OSError):  # its client has gone
                if not (peer in requests and requests[peer][1]) and self._is_silent(connection):
                    connection.shutdown(socket.SHUT_RDWR)
        for peer, (client, _) in requests.items():
            if peer not in seen and (ones := self.requests.pop(client, None)):
                self.requests.setdefault(client, ones)  # a request has come meanwhile

    def _is_silent(self, connection: socket.socket) -> bool:
        if unacknowledged(connection):  # a response waits
            return False
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_RECEIVED.stop)
        return all(
            int.from_bytes(info[each], sys.byteorder) > self.seconds * 1000
            for each in (LAST_DATA_SENT, LAST_DATA_RECEIVED)
        )

"""Closing connections whose client never asks for anything.

With `protocol = "auto"` hyper waits for a request or for HTTP/2's preface without a time-out (docs/upstream.md, c),
whatever ALPN has chosen. So each worker looks at its own connections: one that has never brought a request, and from
which nothing has come for as long as a client of HTTP/2 may take to acknowledge a ping, is closed.
"""

import errno
import ipaddress
import os
import socket
import sys
import time
from collections.abc import Awaitable
from contextlib import suppress

from app.launcher.draining import Application, Message, Receive, Send

INTERVAL = 5.0  # seconds between looks
SLICE, PAUSE = 100, 0.01  # connections that are looked at without letting requests go first, and the seconds for these
LAST_DATA_RECEIVED = slice(52, 56)  # of struct tcp_info (linux/tcp.h): milliseconds since data came

Peer = tuple[bytes, int]


class Silence:
    """ASGI middleware that notes which clients have asked for something, and closes the connections of the others."""

    def __init__(self, application: Application, port: int, seconds: float) -> None:
        """Close a connection to `port` after `seconds` without a byte; longer than a client has for a ping."""
        self.application = application
        self.port = port
        self.seconds = seconds
        self.heard: set[tuple[str, str | int]] = set()

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the application's coroutine: there is none of our own around it."""
        if client := scope.get("client"):
            self.heard.add(client)
        return self.application(scope, receive, send)

    def close_for_ever(self) -> None:
        """Look again and again; for a thread of the worker."""
        while True:
            time.sleep(INTERVAL)
            with suppress(OSError):  # no descriptor is free for the listing: another look has one
                self.close()

    def close(self) -> None:
        """Close the connections that are silent now, and forget the clients that have gone."""
        heard = {_packed(host, port): (host, port) for host, port in self.heard.copy()}
        seen: set[Peer] = set()
        for index, name in enumerate(os.listdir("/proc/self/fd")):  # noqa: PTH208 - thousands, and no use for a Path
            if index % SLICE == SLICE - 1:
                time.sleep(PAUSE)
            try:
                copy = os.dup(int(name))  # it stays the same connection, whoever closes the descriptor
            except OSError as error:
                if error.errno == errno.EBADF:  # it has gone
                    continue
                return  # no descriptor is free: whoever is not seen may be there
            try:
                connection = socket.socket(fileno=copy)
            except OSError:  # it is no socket
                os.close(copy)
                continue
            with connection, suppress(OSError):  # its client has gone
                self._look(connection, heard, seen)
        self.heard.difference_update(client for peer, client in heard.items() if peer not in seen)

    def _look(self, connection: socket.socket, heard: dict[Peer, tuple[str, str | int]], seen: set[Peer]) -> None:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] != self.port:
            return
        host, port, *_ = connection.getpeername()
        peer = _packed(host, port)
        seen.add(peer)
        if peer not in heard:
            silent = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_RECEIVED.stop)
            if int.from_bytes(silent[LAST_DATA_RECEIVED], sys.byteorder) > self.seconds * 1000:
                connection.shutdown(socket.SHUT_RDWR)


def _packed(host: str, port: str | int) -> Peer:
    """Return an address in one form: Granian and the C library may write it differently."""
    return ipaddress.ip_address(host.partition("%")[0]).packed, int(port)

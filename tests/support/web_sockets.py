"""A WebSocket client in one thread: that of websockets.sync reads in another, and two threads may break a TLS socket."""

import socket
import ssl
from collections import deque
from typing import Self

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri


class WebSocket:
    """An open WebSocket, of text messages; each step may take 30 s."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        """Open it, from `port` if that is given. Raises websockets.InvalidHandshake if it is refused."""
        uri = parse_uri(url)
        self.socket = socket.create_connection((uri.host, uri.port), 30, ("", port))
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname=uri.host)
        self.protocol = ClientProtocol(uri, max_size=None)
        self.texts: deque[str] = deque()
        self.protocol.send_request(self.protocol.connect())
        self._flush()
        while not any(isinstance(event, Response) for event in self._receive()):
            assert not self.protocol.handshake_exc
        if self.protocol.handshake_exc:
            self.socket.close()
            raise self.protocol.handshake_exc

    def send(self, text: str) -> None:
        self.protocol.send_text(text.encode())
        self._flush()

    def recv(self) -> str:
        """Return the next text. Raises websockets.ConnectionClosed if it has been closed."""
        while not self.texts:
            if self.protocol.state is State.CLOSED:
                raise self.protocol.close_exc
            self._receive()
        return self.texts.popleft()

    def _receive(self) -> list[object]:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:  # the server does not wait for our close frame
            if self.protocol.close_rcvd is None:
                raise
            data = b""
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        self._flush()
        events = self.protocol.events_received()
        for event in events:  # of the handshake, too: a text may come with its response
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self.texts.append(bytes(event.data).decode())
        return list(events)

    def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.socket.sendall(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

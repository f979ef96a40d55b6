"""An HTTP/2 client that works in frames."""

import socket
from collections.abc import Collection

import hpack
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

SETTINGS = ("MAX_CONCURRENT_STREAMS", "MAX_HEADER_LIST_SIZE")


class Client:
    """A client that sends any frame, whether or not a client may."""

    def __init__(self, to: int | socket.socket, window: int = 2**31 - 1) -> None:
        """Connect to a port, or take a connection, which may be of TLS."""
        self.socket = socket.create_connection(("127.0.0.1", to), timeout=10) if isinstance(to, int) else to
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.received = b""
        self.next = 1
        self.bodies: dict[int, bytes] = {}
        self.statuses: dict[int, bytes] = {}
        self.whole: set[int] = set()
        self.reset: dict[int, int] = {}
        self.goaway: list[int] = []
        self.last_stream = 2**31 - 1
        self.settings: dict[str, int] = {}
        self.closed = False
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: window}))
        self.widen(window - 65_535)

    def send(self, *frames: Frame) -> None:
        self.socket.sendall(b"".join(frame.serialize() for frame in frames))

    def widen(self, size: int) -> None:
        """Allow so many more bytes on the connection."""
        if size > 0:
            self.send(WindowUpdateFrame(0, window_increment=size))

    def headers(self, target: str, *headers: tuple[str, str]) -> bytes:
        """Encode the header section of a GET."""
        pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", target)]
        return bytes(self.encoder.encode([*pseudo, *headers]))

    def stream(self) -> int:
        """Return the number of a stream that is not used yet."""
        self.next += 2
        return self.next - 2

    def request(self, target: str, *headers: tuple[str, str]) -> int:
        stream = self.stream()
        self.send(HeadersFrame(stream, self.headers(target, *headers), flags=["END_HEADERS", "END_STREAM"]))
        return stream

    def receive(self) -> None:
        """Take what comes next; sets `closed` at the end of the connection."""
        try:
            data = self.socket.recv(2**16)
        except ConnectionResetError:
            data = b""
        self.closed = not data
        self.received += data
        while len(self.received) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self.received[:9]))
            if len(self.received) < 9 + length:
                return
            frame.parse_body(memoryview(self.received[9 : 9 + length]))
            self.received = self.received[9 + length :]
            self.take(frame)

    def take(self, frame: Frame) -> None:
        stream = frame.stream_id
        match frame:
            case HeadersFrame():
                headers = dict(self.decoder.decode(frame.data, raw=True))
                assert b"connection" not in headers  # RFC 9113, section 8.2.2
                self.statuses[stream] = headers[b":status"]
            case DataFrame():
                self.bodies[stream] = self.bodies.get(stream, b"") + frame.data
            case RstStreamFrame():
                self.reset[stream] = frame.error_code
            case SettingsFrame() if "ACK" not in frame.flags:
                self.settings = {name: frame.settings.get(getattr(SettingsFrame, name), -1) for name in SETTINGS}
            case GoAwayFrame():
                self.goaway.append(frame.error_code)
                self.last_stream = frame.last_stream_id
            case PingFrame() if "ACK" not in frame.flags:  # a server that drains waits for it
                self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        if "END_STREAM" in frame.flags:
            self.whole.add(stream)

    def until_whole(self, streams: Collection[int]) -> None:
        """Receive until those streams have ended, or the connection has."""
        while not (self.whole >= set(streams) or self.closed):
            self.receive()

    def close(self) -> None:
        self.socket.close()

"""A client process: it keeps connections open, requests the arena's mix, and compares every body with the oracle's.

`Load` (bench/verified_load.py) starts it with a plan, and sends commands to its standard input.
"""

import asyncio
import gc
import json
import random
import resource
import select
import ssl
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import uvloop

from bench import oracle

MIX = [
    (b"GET /json/%d?m=%d HTTP/1.1\r\nhost: localhost\r\n\r\n" % each, b"\r\n\r\n" + oracle.body(*each))
    for each in oracle.MIX
]
OPENING_AT_ONCE = 64  # of connections that are kept: a handshake has 10 s, on a busy machine, too
BEGIN, REPORT = b"begin\n", b"report\n"
"""Commands: connections that are kept send requests from now on; print the tally. The end of the input ends the client."""
RESPONSE_DEADLINE = 30.0  # seconds for the responses still awaited when a load ends


@dataclass
class Tally:
    """What became of connections and requests."""

    opened: int = 0
    unopened: int = 0
    """Refused, or cut before the handshake was done: no request was sent."""
    responded: int = 0
    """Requests whose response had the right status, length and body."""
    waiting: int = 0
    """Requests without a response yet."""
    idle: int = 0
    """Connections that the server closed while no request was sent."""
    noticed: int = 0
    """Those of them that had got `Connection: close` with their last response."""
    unresponded: int = 0
    """Connections closed after a request, with no byte of its response."""
    broken: int = 0
    """Connections closed in the middle of a response."""
    wrong: int = 0
    longest: float = 0.0
    """Seconds from the slowest request to the end of its response."""

    @classmethod
    def sum(cls, tallies: Sequence["Tally"]) -> "Tally":
        """Add up the counts; `longest` is the longest of all."""
        whole = cls(
            **{each.name: sum(getattr(tally, each.name) for tally in tallies) for each in fields(cls)},
        )
        whole.longest = max(tally.longest for tally in tallies)
        return whole

    @property
    def failed(self) -> int:
        """How many connections and requests ended without a right response."""
        return self.unopened + self.waiting + self.idle + self.unresponded + self.broken + self.wrong


@dataclass(frozen=True)
class Plan:
    """What a client process does."""

    port: int
    connections: int
    authority: str | None
    """The certificate that verifies the server's; None for plaintext."""
    requests: int
    """Requests on a connection until it is closed and another opened; 0 keeps it, idle until `begin`."""
    pause: float
    """Mean seconds between a response and the next request; 0 sends at once."""


class Client:
    """The connections of one process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tally = Tally()
        self.begun = self.ending = False
        self.open: set[Connection] = set()
        self.context: ssl.SSLContext | None = None
        if plan.authority:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self.context.load_verify_locations(plan.authority)

    async def keep(self, opening: asyncio.Semaphore) -> None:
        """Keep one connection, or one after the other."""
        loop = asyncio.get_running_loop()
        while not self.ending:
            async with opening:
                try:
                    _, connection = await loop.create_connection(
                        lambda: Connection(self),
                        "127.0.0.1",
                        self.plan.port,
                        ssl=self.context,
                        server_hostname="localhost" if self.context else None,
                        ssl_handshake_timeout=60 if self.context else None,
                    )
                except OSError:  # ssl.SSLError is one too
                    self.tally.unopened += not self.ending
                    return
            await connection.lost.wait()
            if not self.plan.requests:
                return

    async def run(self) -> None:
        """Open the connections, and follow the commands from stdin until it ends."""
        commands = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        opening = asyncio.Semaphore(self.plan.connections if self.plan.requests else OPENING_AT_ONCE)
        slots = [asyncio.create_task(self.keep(opening)) for _ in range(self.plan.connections)]
        while command := await commands.readline():
            if command == BEGIN:
                self.begun = True
                for connection in self.open:
                    connection.send_later()
            else:
                self.report()
        self.ending = True
        for connection in list(self.open):
            connection.end()
        await asyncio.wait(slots, timeout=RESPONSE_DEADLINE)
        self.report()

    def report(self) -> None:
        """Print the tally as JSON on a line."""
        self.tally.waiting = sum(connection.expected is not None for connection in self.open)
        print(json.dumps(asdict(self.tally)), flush=True)


class Connection(asyncio.Protocol):
    """A connection on which one request is sent after the other."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.lost = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.left = client.plan.requests or -1
        self.turn = random.randrange(len(MIX))
        self.expected: bytes | None = None
        self.received = b""
        self.closing = self.last = False

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401, D102 - uvloop's transports have no common type
        self.transport = transport
        self.end_of_stream = select.poll()
        self.end_of_stream.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        self.client.tally.opened += 1
        self.client.open.add(self)
        if self.client.plan.requests or self.client.begun:
            self.send_later()

    def send_later(self) -> None:
        """Send the next request after the pause."""
        if self.client.plan.pause:
            self.loop.call_later(random.uniform(0, 2 * self.client.plan.pause), self.send)
        else:
            self.send()

    def send(self) -> None:
        """Send the next request, unless the connection is closing."""
        # A busy client learns late that the server has closed; the server would never see what it sends then.
        if self.closing or self.lost.is_set() or self.end_of_stream.poll(0):
            return
        self.turn = (self.turn + 1) % len(MIX)
        request, self.expected = MIX[self.turn]
        self.sent = self.loop.time()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:  # noqa: D102 - asyncio's
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return
        if self.expected is None or not self.received.startswith(b"HTTP/1.1 200 "):
            self.fail()
        elif len(self.received) - end >= len(self.expected):
            if self.received[end:] != self.expected:
                self.fail()
                return
            tally = self.client.tally
            tally.responded += 1
            tally.longest = max(tally.longest, self.loop.time() - self.sent)
            self.last = b"\r\nconnection: close\r\n" in self.received[: end + 2]  # then the server closes
            self.expected, self.received = None, b""
            self.left -= 1
            if self.left == 0 or self.client.ending:
                self.end()
            elif not self.last:
                self.send_later()

    def fail(self) -> None:
        """Count and print a wrong response, and end the connection."""
        print(f"wrong: {self.received[:400]!r}", file=sys.stderr)
        self.client.tally.wrong += 1
        self.expected, self.closing = None, True
        self.transport.abort()

    def end(self) -> None:
        """Close, unless a response is awaited: `data_received` calls this again after it."""
        if self.expected is None:
            self.closing = True
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:  # noqa: D102 - asyncio's
        self.client.open.discard(self)
        self.lost.set()
        if self.received:
            self.client.tally.broken += 1
        elif self.expected is not None:
            self.client.tally.unresponded += 1
        elif not self.closing:
            self.client.tally.idle += 1
            self.client.tally.noticed += self.last


def main() -> None:
    """Be a client process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # thousands of live connections would be looked through again and again
    client = Client(Plan(**json.loads(sys.argv[1])))
    uvloop.install()
    asyncio.run(client.run())


if __name__ == "__main__":
    main()

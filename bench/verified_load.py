"""Clients that keep connections open, request the arena's mix, and compare every body with the oracle's.

`Load` starts them as processes: each has its own limit on open files, and its own interpreter.
"""

import asyncio
import gc
import itertools
import json
import random
import resource
import select
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import uvloop

from bench import oracle

ROOT = Path(__file__).parent.parent
MIX = [
    (b"GET /json/%d?m=%d HTTP/1.1\r\nhost: localhost\r\n\r\n" % each, b"\r\n\r\n" + oracle.body(*each))
    for each in oracle.MIX
]
OPENING_AT_ONCE = 64  # of connections that are kept: a handshake has 10 s, on a busy machine, too
BEGIN, REPORT = b"begin\n", b"report\n"
RESPONSE_DEADLINE = 30.0  # seconds for the responses still awaited when a load ends


def wait_until(condition: Callable[[], bool], what: str, deadline: float) -> None:
    """Return once the condition holds; raise TimeoutError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline} s: {what}")
        time.sleep(0.01)


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


class Load:
    """Client processes that load a port until `end`."""

    def __init__(  # noqa: PLR0913 - each is an option of the load
        self,
        port: int,
        connections: int,
        *,
        authority: Path | None = None,
        requests: int = 0,
        pause: float = 0.0,
        processes: int = 1,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        """Start them; `python` is the command of an interpreter with the repository as its working directory."""
        plan = Plan(port, connections // processes, str(authority) if authority else None, requests, pause)
        self.port, self.connections, self.requests = port, plan.connections * processes, requests
        self.processes = [
            subprocess.Popen(
                [*python, "-m", "bench.verified_load", json.dumps(asdict(plan))],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(processes)
        ]
        self.pipes = [(each.stdin, each.stdout) for each in self.processes if each.stdin and each.stdout]

    def tally(self) -> Tally:
        """Return what has become of connections and requests so far."""
        self._command(REPORT)
        return self._read()

    def opened(self, deadline: float = 60.0) -> None:
        """Wait until all connections are open; raise TimeoutError after `deadline` seconds, OSError if some fail."""

        def tried() -> bool:
            tally = self.tally()
            return tally.opened + tally.unopened >= self.connections

        wait_until(tried, f"{self.connections} connections", deadline)
        if failed := self.tally().unopened:
            raise ConnectionError(f"{failed} of {self.connections} connections to port {self.port} failed")

    def begin(self) -> None:
        """Make the connections that are kept send requests; raise ValueError if none are, as the others send at once."""
        if self.requests:
            raise ValueError(f"connections for {self.requests} requests each have begun when they were opened")
        self._command(BEGIN)

    def _command(self, command: bytes) -> None:
        for stdin, _ in self.pipes:
            stdin.write(command)
            stdin.flush()

    def _read(self) -> Tally:
        return Tally.sum([Tally(**json.loads(stdout.readline())) for _, stdout in self.pipes])

    def end(self) -> Tally:
        """Wait for the responses still awaited, close all connections, and return what became of all."""
        for stdin, _ in self.pipes:
            stdin.close()
        tally = self._read()
        for process in self.processes:
            process.wait(10)
        return tally

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for pipe in itertools.chain(*self.pipes):
            pipe.close()


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

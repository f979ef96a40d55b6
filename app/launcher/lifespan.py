"""An application's lifespan (ASGI, lifespan protocol), and what responds in its place if it does not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from app.launcher.asgi import Application, Message, Receive, Send
from app.launcher.child import STARTUP_FAILED, end_process
from app.launcher.log import error, warn
from app.settings.errors import described


class Lifespan:
    """The lifespan of a worker's application.

    However it ends, the shutdown begins when all requests are done, those included that work on after their response.
    """

    def __init__(
        self,
        listener: str,
        receive: Receive,
        send: Send,
        requests_done: Callable[[], Awaitable[None]],
        on_started: Callable[[], None],
    ) -> None:
        """`on_started` is called when the startup is over, with or without the application's response."""
        self.listener = listener
        self.requests_done = requests_done
        self.on_started = on_started
        self._receive = receive
        self._send = send
        self._state: Message = {}
        self._state_at_drain: Message = {}
        self._is_used = False  # whether the application has tried to receive or to send
        self._shutdown: Message | None = None  # it has come, and the application has not got it yet
        self._received: set[str] = set()
        self._sent: set[str] = set()

    async def run(self, application: Application, scope: Message) -> None:
        """Run it until the worker is to end."""
        self._state = scope.get("state", {})
        try:
            await application(scope, self.receive, self.send)
        except (SystemExit, KeyboardInterrupt):  # it ends its worker
            raise
        except BaseException as raised:  # whatever it is: it is served on, as ASGI has it
            if (task := asyncio.current_task()) is not None and task.cancelling():  # it is Granian's to end this
                raise
            if self._is_used:
                self._report(raised)
        if "lifespan.startup.complete" not in self._sent:
            if "lifespan.startup" not in self._received:
                await self._receive()
            await self._send({"type": "lifespan.startup.complete"})
            self._started()
        if "lifespan.shutdown" not in self._received:
            self._shutdown = self._shutdown or await self._receive()
            await self.requests_done()
        if not self._sent & {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
            await self._send({"type": "lifespan.shutdown.complete"})

    def keep_state(self) -> None:
        """Keep what is in the lifespan's state: Granian empties it before the shutdown (2.8.7; docs/upstream.md, G)."""
        self._state_at_drain = dict(self._state)

    async def receive(self) -> Message:
        """Return the next message to the application; the shutdown when all requests are done."""
        self._is_used = True
        message = self._shutdown or await self._receive()
        if message["type"] == "lifespan.shutdown":
            self._shutdown = message  # whoever waits may be cancelled meanwhile, and ask again, or end
            await self.requests_done()
            self._state.update({**self._state_at_drain, **self._state})
        self._received.add(message["type"])
        return message

    async def send(self, message: Message) -> None:
        """Take a message of the application's. Raises what Granian does if it does not know it, or not now."""
        self._is_used = True
        if message["type"] == "lifespan.startup.failed":
            self._end(str(message.get("message") or ""))
        if message["type"].startswith("lifespan.shutdown.") and "lifespan.shutdown" not in self._received:
            raise RuntimeError(f"{message['type']} was sent before lifespan.shutdown was received")
        await self._send(message)
        self._sent.add(message["type"])
        if message["type"] == "lifespan.startup.complete":
            self._started()

    def _started(self) -> None:
        self.on_started()

    def _report(self, raised: BaseException) -> None:
        what, follows = "startup", "it is served without a lifespan"
        if "lifespan.shutdown" in self._received:
            what, follows = "shutdown", "the worker ends all the same"
        elif "lifespan.startup.complete" in self._sent:
            what, follows = "lifespan", "it is served on, and its shutdown will not run"
        warn(f"listener {self.listener}: the application's {what} raised {described(raised)}; {follows}")

    def _end(self, reason: str) -> NoReturn:
        """End this worker, whose application reports that its startup has failed; a traceback comes before the line."""
        *before, last = reason.rstrip().splitlines() or ["it gives no reason"]
        error(f"listener {self.listener}: the application's startup failed: {last}", details="\n".join(before))
        end_process(STARTUP_FAILED)  # SystemExit in a task would be a traceback

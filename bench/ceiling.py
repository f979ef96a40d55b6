"""The ceiling that Granian sets: our launcher serving bodies that are ready in memory. For measurements alone."""

import os
import signal
import sys
from contextlib import ExitStack

from app import catalogue, config, launcher
from app.__main__ import PROJECT, pair_of
from app.asgi import CONTENT_TYPE, Application, Message, Receive, Send
from bench import oracle


def ready_bodies() -> Application:
    """Build an application that computes nothing: it has the mix, and what it is checked with, ready."""
    page = catalogue.Catalogue(catalogue.load(os.environ)).page
    bodies = {
        (f"/json/{count}", b"m=%d" % multiplier): page(count, multiplier)
        for count, multiplier in (*oracle.MIX, *oracle.CHECKS)
    }

    async def app(scope: Message, _: Receive, send: Send) -> None:
        body = bodies.get((scope["path"], scope["query_string"]), b"")
        headers = [CONTENT_TYPE, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def main() -> int:
    """Serve as `python -m app` does, with the other application."""
    signal.pthread_sigmask(signal.SIG_BLOCK, launcher.SIGNALS)
    configuration = config.read(PROJECT / "server.toml", os.environ)
    with ExitStack() as stack:
        pairs = [pair_of(listener, configuration.host, stack) for listener in configuration.listeners]
        return launcher.run(configuration, pairs, ready_bodies(), "/json/5?m=7")


if __name__ == "__main__":
    sys.exit(main())

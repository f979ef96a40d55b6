"""The service with one part exchanged, for the benchmark: applications like `bench.variants:ceiling`.

That one has its bodies ready in memory; `gzip_...` and `br_...` use another compressor.
"""

import gc
import os
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import brotli
from isal import isal_zlib
from zlib_ng import zlib_ng

from app.service import arena, catalogue
from app.service.application import CONTENT_TYPE, Application, Message, Receive, Send, build
from app.service.negotiation import Coding
from bench import oracle

GZIP_WINDOW = 31  # zlib's number for the gzip format with a window of 32 KiB
CANDIDATES: dict[str, Callable[[bytes], bytes]] = {
    **{f"gzip-isal-{level}": partial(isal_zlib.compress, level=level, wbits=GZIP_WINDOW) for level in range(4)},
    **{f"gzip-zlib-ng-{level}": partial(zlib_ng.compress, level=level, wbits=GZIP_WINDOW) for level in (1, 4)},
    "gzip-zlib-1": partial(zlib.compress, level=1, wbits=GZIP_WINDOW),
    "br-1": partial(brotli.compress, quality=1),
}


def ready_bodies() -> Application:
    """Build an application that computes nothing: it has the bodies of the mix, and of its checks, ready."""
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


def without_freeze() -> Application:
    """Build the service so that the first request of a worker undoes the launcher's gc.freeze."""
    service = build(catalogue.load(os.environ))
    first = True

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal first
        if first:
            first = False
            gc.unfreeze()
        await service(scope, receive, send)

    return app


def as_coroutine_function() -> Application:
    """Build the arena's application as a coroutine function: fastpysgi takes any other callable for WSGI."""
    served = arena.build(build(catalogue.load(os.environ)))

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await served(scope, receive, send)

    return app


WHOLE = {"ceiling": ready_bodies, "thawed": without_freeze, "of_arena": as_coroutine_function}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes have no common type
    """Build a variant when a server asks for it: one of WHOLE, or a candidate's name with _ in place of -."""
    if name in WHOLE:
        return WHOLE[name]()
    candidate = name.replace("_", "-")
    if candidate not in CANDIDATES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    coding = Coding(candidate.partition("-")[0].encode(), CANDIDATES[candidate])
    return build(catalogue.load(os.environ), coding)

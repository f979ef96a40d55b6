"""The service with one part exchanged, for the benchmark: `python -m bench.variants NAME`, or `bench.variants:app`.

`ceiling` has its bodies ready in memory; `gzip-...` and `br-...` use another compressor.
"""

import os
import sys
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import brotli
from isal import isal_zlib
from zlib_ng import zlib_ng

from app import run
from app.service import catalogue
from app.service.application import CONTENT_TYPE, Application, Message, Receive, Send, build
from app.service.negotiation import Coding
from app.settings import config
from bench import oracle

GZIP_WINDOW = 31  # zlib's number for the gzip format with a window of 32 KiB
CANDIDATES: dict[str, Callable[[bytes], bytes]] = {
    **{f"gzip-isal-{level}": partial(isal_zlib.compress, level=level, wbits=GZIP_WINDOW) for level in range(4)},
    **{f"gzip-zlib-ng-{level}": partial(zlib_ng.compress, level=level, wbits=GZIP_WINDOW) for level in (1, 4, 5, 6)},
    **{f"gzip-zlib-{level}": partial(zlib.compress, level=level, wbits=GZIP_WINDOW) for level in (1, 4, 6)},
    **{f"br-{quality}": partial(brotli.compress, quality=quality) for quality in (1, 2, 3, 5)},
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


def variant(name: str) -> Application:
    """Build the application of that name."""
    if name == "ceiling":
        return ready_bodies()
    coding = Coding(name.partition("-")[0].encode(), CANDIDATES[name])
    return build(catalogue.load(os.environ), coding)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes have no common type
    """Build `app` for a server that imports it: the variant that VARIANT names."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = variant(os.environ["VARIANT"])
    return globals()["app"]


def serve(built: Application) -> int:
    """Serve an application as `python -m app` serves its own, with the same settings; return the exit status."""
    configuration = config.read(config.path_of(None, os.environ), os.environ)
    with ExitStack() as stack:
        configuration, endpoints = run.preflight(configuration, stack)
        return run.serve(configuration, endpoints, built, "/json/5?m=7")


if __name__ == "__main__":
    sys.exit(serve(variant(sys.argv[1])))

"""A small Starlette application, as anyone would write it: `bench.starlette_app:app`.

It responds as the service does, so that its bodies can be verified; Starlette routes and encodes, and nothing is kept
from one request to the next.
"""

import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench import oracle

ITEMS = json.loads(oracle.BUNDLED.read_text(encoding="utf-8"))


async def items(request: Request) -> JSONResponse:
    """Respond to `GET /json/{count}?m={m}`."""
    multiplier = int(request.query_params.get("m", "1"))
    lines = [
        {**item, "total": item["price"] * item["quantity"] * multiplier}
        for item in ITEMS[: request.path_params["count"]]
    ]
    return JSONResponse({"items": lines, "count": len(lines)})


app = Starlette(routes=[Route("/json/{count:int}", items)])

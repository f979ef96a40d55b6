"""The same application in two frameworks, as their users write it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import fastapi
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tests.support.applications import note


@asynccontextmanager
async def lifespan(_: object) -> AsyncIterator[dict[str, str]]:
    note("startup")
    yield {"greeting": f"of {os.getpid()}"}
    note("shutdown")


async def item(request: Request) -> Response:
    """Say what was asked for, in path and query, and what the lifespan has left."""
    found = {
        "number": request.path_params["number"],
        "q": request.query_params.get("q"),
        "state": request.state.greeting,
    }
    return JSONResponse(found)


async def upload(request: Request) -> Response:
    """Count an upload, chunk by chunk."""
    size = total = 0
    async for chunk in request.stream():
        size += len(chunk)
        total = (total + sum(chunk)) % 2**32
    return PlainTextResponse(f"{size} {total}")


async def _numbers(number: int, form: str) -> AsyncIterator[str]:
    for each in range(number):
        yield form.format(each)
        await asyncio.sleep(0.01)


async def stream(request: Request) -> Response:
    return StreamingResponse(_numbers(request.path_params["number"], "{}\n"), media_type="text/plain")


async def events(request: Request) -> Response:
    numbers = _numbers(request.path_params["number"], "data: {}\n\n")
    return StreamingResponse(numbers, media_type="text/event-stream")


async def background(_: Request) -> Response:
    async def work() -> None:
        await asyncio.sleep(0.2)
        note("done in the background")

    return PlainTextResponse("later", background=BackgroundTask(work))


async def fail(_: Request) -> Response:
    raise ValueError("a secret of the application's")


async def chat(web_socket: WebSocket) -> None:
    await web_socket.accept()
    async for text in web_socket.iter_text():
        await web_socket.send_text(text)


ROUTES: list[Any] = [
    Route("/items/{number:int}", item),
    Route("/upload", upload, methods=["POST"]),
    Route("/stream/{number:int}", stream),
    Route("/events/{number:int}", events),
    Route("/background", background),
    Route("/fail", fail),
    WebSocketRoute("/chat", chat),
]

starlette = Starlette(routes=ROUTES, lifespan=lifespan)

fast_api = fastapi.FastAPI(lifespan=lifespan, routes=ROUTES[1:])


@fast_api.get("/items/{number}")
def item_of_fast_api(number: int, request: Request, q: str | None = None) -> dict[str, Any]:
    """Do as `item` does, in a thread of FastAPI's."""
    return {"number": number, "q": q, "state": request.state.greeting}

"""An application that responds with what its scope says of the client, after a delay if asked."""

import asyncio
import json
from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401
    """Respond with a part of the scope as JSON; a WebSocket gets it as its first message."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    found = {name: scope[name] for name in ("client", "scheme", "http_version", "path")}
    found["cookies"] = [value.decode() for name, value in scope["headers"] if name == b"cookie"]
    body = json.dumps(found).encode()
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": body.decode()})
        await send({"type": "websocket.close", "code": 1000})
        return
    if scope["path"].startswith("/slow/"):
        await asyncio.sleep(float(scope["path"].removeprefix("/slow/")))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

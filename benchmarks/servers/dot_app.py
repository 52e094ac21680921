"""The limit for a binary batch under ASGI: receive the bytes, compute the dot product, send the bytes."""

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from benchmarks.servers import WEIGHTS

_WEIGHTS = np.array(WEIGHTS)


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Score the rows of a body of little-endian float64."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    reply = np.dot(np.frombuffer(body, "<f8").reshape(-1, len(WEIGHTS)), _WEIGHTS).tobytes()
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(reply)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": reply})

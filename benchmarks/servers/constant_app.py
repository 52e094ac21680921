"""What uvicorn does for an application that does nothing: the same reply, whatever was asked."""

from collections.abc import Awaitable, Callable
from typing import Any

_BODY = b'{"prediction":-1.6875,"status":"success"}'
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())],
}


async def app(scope: dict[str, Any], _receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Answer one request."""
    if scope["type"] == "http":
        await send(_START)
        await send({"type": "http.response.body", "body": _BODY})

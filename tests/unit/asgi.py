"""Speaking ASGI as a server does, for what no HTTP client can be made to send."""

from collections.abc import Iterable
from typing import Any

from starlette.testclient import TestClient
from starlette.types import Message


def exchange(
    client: TestClient,
    messages: Iterable[Message],
    *,
    method: str = "POST",
    path: str = "/predict",
    headers: Iterable[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),),
    state: dict[str, Any] | None = None,
) -> list[Message]:
    """What the application sends in answer to a request whose body, or end, comes as `messages`."""
    waiting = iter(messages)
    sent: list[Message] = []

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": list(headers),
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": state or {},
    }
    assert client.portal is not None
    client.portal.call(client.app, scope, receive, send)
    return sent


def header(sent: Iterable[Message], name: bytes) -> bytes:
    """The value of a header of the reply."""
    start = next(iter(sent))
    return dict[bytes, bytes](start["headers"])[name]

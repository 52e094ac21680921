"""What every request gets, whichever route answers it: an id, a log line, and never a traceback."""

import re
from collections.abc import Callable
from itertools import count
from secrets import token_hex
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weighbridge.adapters.http.errors import Problem
from weighbridge.adapters.telemetry import RequestLog

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestIds:
    """Ids of requests: the client's own where it is sane, otherwise one that no other process makes."""

    def __init__(self) -> None:
        self._prefix = token_hex(6)
        self._count = count()

    def of(self, given: bytes | None) -> str:
        """The id of a request that came with `given` as its X-Request-ID."""
        if given is not None and _SANE_ID.fullmatch(given):
            return given.decode()
        return f"{self._prefix}-{next(self._count):x}"


class Envelope:
    """The ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, *, request_log: Callable[[], RequestLog]) -> None:
        self._app = app
        self._request_log = request_log
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        log = self._request_log()
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        request_id = self._ids.of(given[0] if len(given) == 1 else None)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        method = scope["method"]
        try:
            if method == "OPTIONS" and scope["path"] == "*":
                await send_with_id(
                    {"type": "http.response.start", "status": 204, "headers": [(b"allow", b"GET, HEAD, OPTIONS, POST")]}
                )
                await send_with_id({"type": "http.response.body"})
            else:
                # The server drops the body of what it knows as HEAD; the routes know GET.
                routed = {**scope, "method": "GET"} if method == "HEAD" else scope
                await self._app(routed, receive, send_with_id)
        except ClientDisconnect:
            log.abandoned(request_id=request_id)
            return
        except Exception as exc:
            log.failed(exc, request_id=request_id)
            if status:
                raise
            reply = Problem.INTERNAL_ERROR.reply("the request is fine; the cause is in the service's log", request_id)
            await reply.as_response()(scope, receive, send_with_id)
        log.record(
            request_id=request_id,
            method=method,
            path=scope.get("raw_path", b"").decode("ascii", "replace"),
            status=status,
            seconds=perf_counter() - started,
        )

"""What the ordinary road puts around every request: an id, a deadline, a count, perhaps a log line; no traceback."""

import asyncio
import re
from collections.abc import Callable
from math import inf
from time import perf_counter
from urllib.parse import unquote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weighbridge.adapters.http import deadline
from weighbridge.adapters.http.errors import as_response
from weighbridge.adapters.http.fast_route import joined
from weighbridge.adapters.http.problems import RefusedRequest, Reply, internal_error
from weighbridge.adapters.metrics import NO_MODEL, UNROUTED
from weighbridge.adapters.telemetry import RequestTelemetry

_SLASH = re.compile(rb"%2f", re.IGNORECASE)
_ALLOWED = (b"allow", b"GET, HEAD, OPTIONS, POST")


class _TooLate(Exception):
    """The reply was not ready by the deadline."""


class _Sending:
    """Sends one reply, with its request id, unless it begins after the deadline (in seconds of perf_counter).

    `finished` is called with status and body, as far as that is sent as a whole, before the last of it is sent.
    """

    def __init__(self, send: Send, request_id: str, finished: Callable[[int, bytes], None]) -> None:
        self._send = send
        self._finished = finished
        self._request_id = request_id.encode()
        self.status = 0
        self.deadline = inf
        self.timeout: asyncio.Timeout | None = None

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return perf_counter() > self.deadline or (self.timeout is not None and self.timeout.expired())

    async def __call__(self, message: Message) -> None:
        """Send a message of ASGI. Raises _TooLate."""
        if message["type"] == "http.response.start":
            if self.timeout is not None:
                if self.is_late:
                    raise _TooLate
                self.timeout.reschedule(None)  # what has begun is sent to its end
            self.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self._request_id)]
        elif not message.get("more_body", False):
            self._finished(self.status, message.get("body", b""))
        await self._send(message)


class Envelope:
    """The ASGI middleware around all routes; a reply that is not ready within `deadline_ms` is one of 504."""

    def __init__(self, app: ASGIApp, *, telemetry: Callable[[], RequestTelemetry], deadline_ms: int) -> None:
        self._app = app
        self._telemetry = telemetry
        self._deadline_ms = deadline_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        telemetry = self._telemetry()
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        request_id = telemetry.request_id(given[0] if len(given) == 1 else None)
        scope.setdefault("state", {})["request_id"] = request_id
        # The server drops the body of a reply to what it knows as HEAD; the routes know GET.
        routed = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        if _SLASH.search(scope.get("raw_path", b"")):  # within a part of the path it parts nothing (RFC 3986, 2.2)
            path = unquote(_SLASH.sub(b"%252F", scope["raw_path"]))
            routed = {**routed, "path": path}

        def finished(status: int, body: bytes) -> None:
            model = scope["state"].get("model", NO_MODEL)
            route = telemetry.metrics.route(getattr(routed.get("route"), "path", UNROUTED), model)
            spent = perf_counter() - started
            method, path = scope["method"].encode(), scope.get("raw_path", b"")
            telemetry.finished(route, request_id, method, path, (status, b"", body), spent)

        sending = _Sending(send, request_id, finished)
        try:
            asked = joined(scope["headers"]).get(deadline.HEADER)
            limit = deadline.time_limit(asked, self._deadline_ms)
            await self._answer(routed, receive, sending, scope["state"].get("first_byte", started) + limit)
        except ClientDisconnect:
            telemetry.abandoned(request_id=request_id)
        except Exception as exc:
            reply = _reply_to(exc, sending, telemetry, request_id)
            if sending.status:
                raise
            sending.timeout = None
            await as_response(reply)(scope, receive, sending)

    async def _answer(self, scope: Scope, receive: Receive, sending: _Sending, end: float) -> None:
        """Have the application answer until `end`. Raises _TooLate, TimeoutError, and whatever the application does."""
        sending.deadline = scope["state"]["deadline"] = end
        if sending.is_late:
            raise _TooLate
        async with asyncio.timeout(end - perf_counter()) as sending.timeout:
            if scope["method"] == "OPTIONS" and scope["path"] == "*":
                await sending({"type": "http.response.start", "status": 204, "headers": [_ALLOWED]})
                await sending({"type": "http.response.body"})
            else:
                await self._app(scope, receive, sending)


def _reply_to(exc: Exception, sending: _Sending, telemetry: RequestTelemetry, request_id: str) -> Reply:
    """The reply where the application gave none; what nobody foresaw is logged."""
    if isinstance(exc, RefusedRequest):
        return exc.problem.reply(str(exc), request_id)
    if not isinstance(exc, _TooLate) and not (isinstance(exc, TimeoutError) and sending.is_late):
        telemetry.failed(exc, request_id=request_id)
    if sending.is_late:
        telemetry.expired()
        return deadline.too_late(request_id)
    return internal_error(request_id)

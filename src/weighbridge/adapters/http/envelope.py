"""What the ordinary road puts around every request: an id, a count, perhaps a log line, and never a traceback."""

from collections.abc import Callable
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weighbridge.adapters.http.errors import as_response
from weighbridge.adapters.http.problems import internal_error
from weighbridge.adapters.metrics import UNROUTED
from weighbridge.adapters.telemetry import RequestTelemetry

_ALLOWED = (b"allow", b"GET, HEAD, OPTIONS, POST")


class Envelope:
    """The ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, *, telemetry: Callable[[], RequestTelemetry]) -> None:
        self._app = app
        self._telemetry = telemetry

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
        method = scope["method"]
        # The server drops the body of a reply to what it knows as HEAD; the routes know GET.
        routed = {**scope, "method": "GET"} if method == "HEAD" else scope
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if method == "OPTIONS" and scope["path"] == "*":
                await send_with_id({"type": "http.response.start", "status": 204, "headers": [_ALLOWED]})
                await send_with_id({"type": "http.response.body"})
            else:
                await self._app(routed, receive, send_with_id)
        except ClientDisconnect:
            telemetry.abandoned(request_id=request_id)
            return
        except Exception as exc:
            telemetry.failed(exc, request_id=request_id)
            if status:
                raise
            await as_response(internal_error(request_id))(scope, receive, send_with_id)
        telemetry.finished(
            telemetry.metrics.route(getattr(routed.get("route"), "path", UNROUTED)),
            request_id,
            method.encode(),
            scope.get("raw_path", b""),
            status,
            perf_counter() - started,
        )

"""The replies of the fast lane, from a request to bytes: the same whatever kind of connection it came on."""

import asyncio
from http import HTTPStatus
from time import perf_counter

from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from weighbridge.adapters.http.deadline import too_late
from weighbridge.adapters.http.fast_route import CompiledRoute
from weighbridge.adapters.http.problems import Reply, internal_error, retry_after
from weighbridge.adapters.telemetry import RequestTelemetry
from weighbridge.server.head import Head

CLOSE = "\r\nconnection: close"
"""The header line of a reply that is its connection's last."""


class Replies:
    """Answers requests for compiled routes, and writes replies as HTTP/1.1, with `more` header lines if need be."""

    def __init__(self, telemetry: RequestTelemetry, state: ServerState) -> None:
        self._telemetry = telemetry
        self._request_id = telemetry.request_id
        self._state = state
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._starts: dict[int, str] = {}

    def begin(
        self, head: Head, route: CompiledRoute, body: bytes | bytearray, deadline: float
    ) -> tuple[str, Reply | asyncio.Task[Reply]]:
        """The id of a request, and its reply, or the task that gives it later."""
        request_id = self._request_id(head.given_id)
        try:
            return request_id, route.call(head.headers, body, request_id, deadline)
        except Exception as exc:
            self._telemetry.failed(exc, request_id=request_id)
            return request_id, internal_error(request_id)

    def finish(
        self, head: Head, route: CompiledRoute, request_id: str, reply: Reply, times: tuple[float, float], more: str
    ) -> tuple[bytes, float]:
        """The reply as bytes, and when it was ready; `times` are when the request was whole, and its deadline.

        Times are perf_counter's.
        """
        (came, deadline), now = times, perf_counter()
        if now > deadline:
            self._telemetry.expired()
            reply = too_late(request_id)
        # Counted before it is written: what a client has read is in the metrics, even if this process ends right then.
        self._telemetry.finished(route.metrics, request_id, head.method, head.target, reply[0], now - came)
        return self.written(reply, request_id, more), now

    def written(self, reply: Reply, request_id: str, more: str) -> bytes:
        """A whole reply, as bytes."""
        status, media_type, body = reply
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            more = f"\r\nretry-after: {retry_after()}{more}"
        # What uvicorn gives every reply; it renews that, the date, once a second.
        if self._state.default_headers is not self._default_headers:
            self._default_headers = self._state.default_headers
            self._starts.clear()
        start = self._starts.get(status) or self._start(status)
        head = (
            f"{start}content-length: {len(body)}\r\n"
            f"content-type: {media_type.decode()}\r\nx-request-id: {request_id}{more}\r\n\r\n"
        )
        return head.encode() + body

    def _start(self, status: int) -> str:
        lines = (b"%b: %b\r\n" % header for header in self._default_headers)
        start = self._starts[status] = (STATUS_LINE[status] + b"".join(lines)).decode()
        return start

"""The replies of the fast lane, from a request to bytes: the same whatever kind of connection it came on."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from time import perf_counter
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from weighbridge.adapters.http.deadline import too_late
from weighbridge.adapters.http.fast_route import CompiledRoute
from weighbridge.adapters.http.problems import Reply, internal_error, overloaded, retry_after
from weighbridge.adapters.metrics import UNROUTED
from weighbridge.adapters.telemetry import RequestTelemetry
from weighbridge.server.edge.head import Head, Refusal

CLOSE = "\r\nconnection: close"
"""The header line of a reply that is its connection's last."""


_UNAVAILABLE = int(HTTPStatus.SERVICE_UNAVAILABLE)

Answered = tuple[Reply, str, float]
"""A reply, the id of its request, and when it was ready, in seconds of perf_counter."""


class Due(NamedTuple):
    """A reply that comes later, and the id of its request."""

    request_id: str
    reply: asyncio.Task[Reply]


class Replies:
    """Answers requests for compiled routes, and writes replies as HTTP/1.1, with `more` header lines if need be."""

    def __init__(self, telemetry: RequestTelemetry, state: ServerState) -> None:
        self._telemetry = telemetry
        self._request_id = telemetry.request_id
        self._state = state
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._starts: dict[int, str] = {}

    def answer(
        self, head: Head, route: CompiledRoute, body: bytes | bytearray, came: float, deadline: float
    ) -> Answered | Due:
        """The reply to a request that was whole at `came`, or what gives it later. Times are perf_counter's."""
        request_id = self._request_id(head.given_id)
        try:
            reply = route.call(head.headers, body, request_id, deadline)
        except Exception as exc:
            self._telemetry.failed(exc, request_id=request_id)
            reply = internal_error(request_id)
        if not isinstance(reply, tuple):
            return Due(request_id, reply)
        return self.finish(head, route, request_id, reply, came, deadline)

    def finish(
        self, head: Head, route: CompiledRoute, request_id: str, reply: Reply, came: float, deadline: float
    ) -> Answered:
        """The reply that counts, by now, to a request that was whole at `came`."""
        now = perf_counter()
        if now > deadline:
            self._telemetry.expired()
            reply = too_late(request_id)
        # Counted before it is written: what a client has read is in the metrics, even if this process ends right then.
        self._telemetry.finished(route.metrics, request_id, head.method, head.target, reply, now - came)
        return reply, request_id, now

    def expired(self, head: Head, route: CompiledRoute, came: float) -> Answered:
        """The reply to a request whose deadline passed before its turn came."""
        self._telemetry.expired()
        return self._unserved(too_late, head, route, came)

    def turned_away(self, head: Head, route: CompiledRoute, came: float) -> Answered:
        """The reply to a request that would wait too long."""
        self._telemetry.shed("queue")
        return self._unserved(overloaded, head, route, came)

    def _unserved(self, reply_to: Callable[[str], Reply], head: Head, route: CompiledRoute, came: float) -> Answered:
        request_id = self._request_id(head.given_id)
        reply = reply_to(request_id)
        now = perf_counter()
        self._telemetry.finished(route.metrics, request_id, head.method, head.target, reply, now - came)
        return reply, request_id, now

    def refused(self, refusal: Refusal) -> bytes:
        """The reply to a request that is refused, as bytes."""
        telemetry = self._telemetry
        request_id = self._request_id(refusal.given_id)
        reply = refusal.reason.problem.reply(str(refusal.reason), request_id)
        path, spent = refusal.target.partition(b"?")[0], perf_counter() - refusal.since
        telemetry.finished(telemetry.metrics.route(UNROUTED), request_id, b"", path, reply, spent)
        return self.written(reply, request_id, CLOSE)

    def written(self, reply: Reply, request_id: str, more: str) -> bytes:
        """A whole reply, as bytes."""
        status, media_type, body = reply
        if status == _UNAVAILABLE:
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

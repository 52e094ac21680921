"""The replies of the fast lane, from a request to bytes: the same whatever kind of connection it came on."""

from time import perf_counter

from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from weighbridge.adapters.http.deadline import too_late
from weighbridge.adapters.http.problems import Reply, internal_error
from weighbridge.adapters.telemetry import RequestTelemetry
from weighbridge.server.head import Head, LaneRoute

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

    def answer(
        self, head: Head, route: LaneRoute, body: bytes | bytearray, came: float, deadline: float, more: str
    ) -> tuple[bytes, float]:
        """The reply to a request that was whole at `came`, and when it was ready. Times are perf_counter's."""
        request_id = self._request_id(head.given_id)
        try:
            reply = route.call(head.headers, body, request_id)
        except Exception as exc:
            self._telemetry.failed(exc, request_id=request_id)
            reply = internal_error(request_id)
        now = perf_counter()
        if now > deadline:
            self._telemetry.expired()
            reply = too_late(request_id)
        # Counted before it is written: what a client has read is in the metrics, even if this process ends right then.
        self._telemetry.finished(route.metrics, request_id, head.method, head.target, reply[0], now - came)
        return self.written(reply, request_id, more), now

    def written(self, reply: Reply, request_id: str, more: str) -> bytes:
        """A whole reply, as bytes."""
        status, media_type, body = reply
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

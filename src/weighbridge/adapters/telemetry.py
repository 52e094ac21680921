"""What every request gets, whichever road it takes: an id, its place in the metrics, and perhaps a log line."""

import logging
from http import HTTPStatus
from time import perf_counter
from typing import Literal

import orjson
from structlog.typing import FilteringBoundLogger

from weighbridge.adapters.http.problems import BEGINNING, Reply
from weighbridge.adapters.http.request_ids import RequestIds
from weighbridge.adapters.metrics import NO_MODEL, RequestMetrics, RouteMetrics

Shed = Literal["queue", "buffers", "in_flight"]
"""Why a request is refused for overload: its estimated wait, the buffered bytes, or the requests in hand."""

_TELL_SECONDS = 1.0
_LONGEST_PLACE = 200  # characters: the names of columns may be of any length
_UNAVAILABLE = int(HTTPStatus.SERVICE_UNAVAILABLE)


class RequestTelemetry:
    """Names, counts and logs requests.

    `policy` says which requests get a log line: failed (status 400 and above, or slower than `slow_ms` milliseconds),
    all, or none.
    """

    def __init__(
        self,
        logger: FilteringBoundLogger,
        metrics: RequestMetrics,
        *,
        policy: Literal["failed", "all", "none"],
        slow_ms: int,
    ) -> None:
        self.metrics = metrics
        self.request_id = RequestIds().name
        self._logger = logger
        self._lowest_status = {"failed": 400, "all": 0, "none": 1000}[policy]
        self._turned_away = 0
        self._told = float("-inf")
        self._slow_seconds = slow_ms / 1000 if policy == "failed" else float("inf")

    def finished(
        self, route: RouteMetrics, request_id: str, method: bytes, path: bytes, reply: Reply, seconds: float
    ) -> None:
        """Count a request that was answered, and log it if the policy wants that; `path` as it came on the wire."""
        status = reply[0]
        route.observe(status, seconds)
        if status == _UNAVAILABLE:
            self._turn_away(status)
        elif status >= self._lowest_status or seconds > self._slow_seconds:
            level = logging.ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO
            self._logger.log(
                level,
                "request",
                request_id=request_id,
                method=method.decode(),
                path=path[:200].decode("ascii", "backslashreplace"),
                status=status,
                duration_ms=round(seconds * 1000, 3),
                **({} if route.model is NO_MODEL else {"model": route.model.name, "version": route.model.version}),
                **(_told_in(reply[2]) if status >= HTTPStatus.BAD_REQUEST else {}),
            )

    def _turn_away(self, status: int) -> None:
        """Log at most once a second that requests were turned away.

        A line for each would cost more than the refusal, just when there is no time for either.
        """
        self._turned_away += 1
        now = perf_counter()
        if now - self._told > _TELL_SECONDS and self._lowest_status <= status:
            self._logger.warning("requests_turned_away", count=self._turned_away)
            self._turned_away = 0
            self._told = now

    def failed(self, exc: BaseException, *, request_id: str) -> None:
        """Log the traceback of a request that ended in an error nobody foresaw; the client never sees it."""
        self._logger.error("request_failed", request_id=request_id, exc_info=exc)

    def abandoned(self, *, request_id: str) -> None:
        """Count that the client went away before its request had begun to be served, and log it at level debug."""
        self.metrics.abandoned()
        self._logger.debug("request_abandoned", request_id=request_id)

    def shed(self, reason: Shed) -> None:
        """Count that a request was refused for overload."""
        self.metrics.shed(reason)

    def expired(self) -> None:
        """Count that a request got no answer by its deadline."""
        self.metrics.expired()


def _told_in(body: bytes) -> dict[str, str]:
    """The code of a problem and the place of its first error: read from the reply, so that others pay nothing for it.

    Neither is of the input; what else a problem says need not be in the log.
    """
    if not body.startswith(BEGINNING):
        return {}
    problem = orjson.loads(body)
    told = {"code": problem["code"]}
    for error in problem.get("errors", [])[:1]:
        told["place"] = ".".join(map(str, error["loc"]))[:_LONGEST_PLACE]
    return told

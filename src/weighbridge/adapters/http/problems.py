"""The kinds of errors as the client sees them: RFC 9457 problem details with a stable code.

docs/errors.md gives the cause and the cure of each code. No framework is needed here: the supervisor answers so, too.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, unique
from itertools import cycle
from typing import Any

import orjson

Reply = tuple[int, bytes, bytes]
"""A whole HTTP reply, whichever road carries it: status, media type, body."""

BEGINNING = b'{"type":"urn:weighbridge:'
"""How the body of each problem begins, and no other body."""

_ID = "the request id"


@unique
class Problem(Enum):
    """The kinds of errors: status and title; the code is the member's name in lower case."""

    BAD_REQUEST = 400, "The request is malformed"
    FEATURE_COUNT_MISMATCH = 400, "A row has the wrong number of features"
    UNAUTHORIZED = 401, "The token is missing or wrong"
    FORBIDDEN = 403, "Requests from other sites are forbidden"
    NOT_FOUND = 404, "No such path"
    MODEL_NOT_FOUND = 404, "No such model"
    VERSION_NOT_FOUND = 404, "The model has no such version"
    VERSION_NOT_LIVE = 404, "Another version of the model is live"
    METHOD_NOT_ALLOWED = 405, "This path does not support this method"
    REQUEST_TIMEOUT = 408, "The request took too long to arrive"
    NOTHING_TO_ROLL_BACK = 409, "No other version was live before"
    BODY_TOO_LARGE = 413, "The body is too large"
    TOO_MANY_ROWS = 413, "The batch has too many rows"
    URI_TOO_LONG = 414, "The request target is too long"
    UNSUPPORTED_MEDIA_TYPE = 415, "The media type of the body is not supported"
    EXPECTATION_FAILED = 417, "The Expect header is not supported"
    MISDIRECTED = 421, "The request is meant for another host"
    JSON_INVALID = 422, "The body is not valid JSON"
    INPUT_INVALID = 422, "The body does not fit the schema"
    PREDICTION_NOT_FINITE = 422, "The prediction is not a finite number"
    FEATURES_NOT_FINITE = 422, "A feature is not a finite number"
    FEATURE_TOO_LARGE = 422, "A feature is too large for the model"
    MODEL_REFUSED = 422, "The version of the model cannot be served"
    HEADERS_TOO_LARGE = 431, "The headers are too large"
    INTERNAL_ERROR = 500, "The service failed"
    INFERENCE_FAILED = 500, "The model failed"
    MODEL_CRASHED = 500, "The model's process ended"
    METHOD_NOT_IMPLEMENTED = 501, "The method is not implemented"
    MODEL_UNAVAILABLE = 503, "The model is out of service"
    NOT_READY = 503, "The service is not ready"
    OVERLOADED = 503, "The service is overloaded"
    DEADLINE_EXCEEDED = 504, "The request missed its deadline"
    HTTP_VERSION_NOT_SUPPORTED = 505, "The version of HTTP is not supported"

    def __init__(self, status: int, title: str) -> None:
        self.status = status
        self.title = title
        self.code = self.name.lower()

    def reply(self, detail: str, request_id: str, errors: Sequence[Mapping[str, Any]] = ()) -> Reply:
        """The problem as a reply; `errors` say where, for what fits no model or schema."""
        problem = {
            "type": f"urn:weighbridge:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": detail,
            "code": self.code,
            "request_id": request_id,
        }
        if errors:
            problem["errors"] = errors
        return self.status, b"application/problem+json", orjson.dumps(problem)


_SECONDS = cycle(("2", "1", "3"))


def retry_after() -> str:
    """The seconds after which a client is to come back, and not all clients at the same time."""
    return next(_SECONDS)


class Canned:
    """A problem whose replies are the same but for the request id, which is put into bytes that are ready."""

    def __init__(self, problem: Problem, detail: str) -> None:
        self.status, self._media_type, body = problem.reply(detail, _ID)
        self._before, self._after = body.split(_ID.encode())

    def reply(self, request_id: str) -> Reply:
        """The reply to a request."""
        return self.status, self._media_type, b"%b%b%b" % (self._before, request_id.encode(), self._after)


_OVERLOADED = Canned(Problem.OVERLOADED, "The server is overloaded; retry later")


def overloaded(request_id: str) -> Reply:
    """The reply to a request that would wait too long; ready but for its id, since it is needed most under load."""
    return _OVERLOADED.reply(request_id)


def internal_error(request_id: str) -> Reply:
    """The reply to a request that failed for a reason nobody foresaw."""
    return Problem.INTERNAL_ERROR.reply("The request is not to blame; the service's log has the cause", request_id)


class RefusedRequest(Exception):
    """A request that the HTTP edge itself refuses, before any use case."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem

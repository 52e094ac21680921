"""Every error as the client sees it: RFC 9457 problem details with a stable code.

docs/errors.md gives the cause and the cure of each code. Nothing of the input is ever repeated.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, unique
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from weighbridge.application.readiness import NotReady
from weighbridge.domain.errors import (
    FeatureCountMismatch,
    FeaturesNotFinite,
    PredictionNotFinite,
    TooManyRows,
    WeighbridgeError,
)

_MOST_ERRORS = 100

Location = tuple[str | int, ...]


Reply = tuple[int, bytes, bytes]
"""A whole HTTP reply, whichever road carries it: status, media type, body."""


def as_response(reply: Reply, headers: Mapping[str, str] | None = None) -> Response:
    """The reply as ASGI servers take it."""
    status, media_type, body = reply
    return Response(body, status, headers, media_type.decode())


@unique
class Problem(Enum):
    """The kinds of errors: status and title; the code is the member's name in lower case."""

    BAD_REQUEST = 400, "The request cannot be understood"
    FEATURE_COUNT_MISMATCH = 400, "A row is not as wide as the model"
    NOT_FOUND = 404, "There is nothing at this path"
    METHOD_NOT_ALLOWED = 405, "This path does not take this method"
    REQUEST_TIMEOUT = 408, "The request took too long to arrive"
    BODY_TOO_LARGE = 413, "The body is too large"
    TOO_MANY_ROWS = 413, "The batch has too many rows"
    URI_TOO_LONG = 414, "The request target is too long"
    UNSUPPORTED_MEDIA_TYPE = 415, "The body is of a type that is not accepted"
    EXPECTATION_FAILED = 417, "The expectation cannot be met"
    JSON_INVALID = 422, "The body is not JSON"
    INPUT_INVALID = 422, "The body does not fit the schema"
    PREDICTION_NOT_FINITE = 422, "The prediction is not a finite number"
    FEATURES_NOT_FINITE = 422, "A feature is not a finite number"
    HEADERS_TOO_LARGE = 431, "The headers are too large"
    INTERNAL_ERROR = 500, "The service failed"
    NOT_READY = 503, "The service is not ready"
    OVERLOADED = 503, "The service has more requests than it can hold"
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


def internal_error(request_id: str) -> Reply:
    """The reply to a request that failed for a reason nobody foresaw."""
    return Problem.INTERNAL_ERROR.reply("the request is not to blame; the service's log has the cause", request_id)


class ErrorItem(BaseModel):
    """One thing that is wrong with the body, and where."""

    loc: list[str | int]
    code: str
    message: str


class ProblemDetails(BaseModel):
    """An error, by RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[ErrorItem] = []


class RefusedRequest(Exception):
    """A request that the HTTP edge itself refuses, before any use case."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem


PROBLEM_OF: dict[type[WeighbridgeError], Problem] = {
    FeatureCountMismatch: Problem.FEATURE_COUNT_MISMATCH,
    FeaturesNotFinite: Problem.FEATURES_NOT_FINITE,
    TooManyRows: Problem.TOO_MANY_ROWS,
    PredictionNotFinite: Problem.PREDICTION_NOT_FINITE,
    NotReady: Problem.NOT_READY,
}


Stated = WeighbridgeError | RefusedRequest | HTTPException
"""The errors that an endpoint may raise to be answered with; any other is unforeseen."""

STATED = (WeighbridgeError, RefusedRequest, HTTPException)


def reply_to(exc: Stated, request_id: str) -> Reply:
    """The reply to an error that the domain, the application or an endpoint states."""
    if isinstance(exc, RefusedRequest):
        return exc.problem.reply(str(exc), request_id)
    if isinstance(exc, HTTPException):
        problem, detail = {
            404: (Problem.NOT_FOUND, "see / for what there is"),
            405: (Problem.METHOD_NOT_ALLOWED, "see the header Allow for the methods that it takes"),
        }.get(exc.status_code, (Problem.BAD_REQUEST, str(exc.detail)))
        return problem.reply(detail, request_id)
    problem = PROBLEM_OF[type(exc)]
    errors = []
    if isinstance(exc, FeatureCountMismatch | FeaturesNotFinite | PredictionNotFinite):
        loc: Location = ("body", "features") if exc.row is None else ("body", "instances", exc.row)
        errors.append({"loc": loc, "code": problem.code, "message": str(exc)})
    return problem.reply(str(exc), request_id, errors)


def reply_to_invalid(exc: ValidationError, request_id: str, accepted: Iterable[str]) -> Reply:
    """The reply to a body that is not JSON or does not fit its schema, whose keys are `accepted`."""
    if exc.error_count() > _MOST_ERRORS:  # naming each of a million unknown keys would be an attack on ourselves
        found = f"expected a body that fits the schema, got one with {exc.error_count()} errors"
        return reply_to_items([{"loc": ("body",), "type": "too_many_errors", "msg": found}], request_id, accepted)
    items = exc.errors(include_url=False, include_context=False, include_input=False)
    return reply_to_items([{**item, "loc": ("body", *item["loc"])} for item in items], request_id, accepted)


def reply_to_items(items: Iterable[Mapping[str, Any]], request_id: str, accepted: Iterable[str]) -> Reply:
    """The reply to pydantic's account of what is wrong, each item with `loc`, `type` and `msg`."""
    errors: dict[tuple[Location, str], dict[str, Any]] = {}
    for item in items:
        loc, code, message = item["loc"], item["type"], item["msg"]
        if code == "extra_forbidden":  # the last part of its place is the client's own key
            loc, message = loc[:-1], f"expected only the keys {', '.join(accepted)}, got others"
        errors[loc, code] = {"loc": loc, "code": code, "message": message}
    first, *others = errors.values()
    problem = Problem.JSON_INVALID if first["code"] == "json_invalid" else Problem.INPUT_INVALID
    more = f" (and {len(others)} more, see errors)" if others else ""
    return problem.reply(f"{'.'.join(map(str, first['loc']))}: {first['message']}{more}", request_id, [first, *others])


def install_handlers(app: FastAPI) -> None:
    """Make every error that a route of `app` raises problem details; compiled routes render their own."""

    @app.exception_handler(HTTPException)
    async def http(request: Request, exc: HTTPException) -> Response:
        headers = dict(exc.headers or {})
        if "GET" in headers.get("Allow", ""):
            headers["Allow"] = ", ".join(sorted({"HEAD", *headers["Allow"].split(", ")}))
        return as_response(reply_to(exc, request.state.request_id), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> Response:
        return as_response(reply_to_items(exc.errors(), request.state.request_id, ["of the schema"]))

    @app.exception_handler(RefusedRequest)
    @app.exception_handler(WeighbridgeError)
    async def stated(request: Request, exc: WeighbridgeError | RefusedRequest) -> Response:
        return as_response(reply_to(exc, request.state.request_id))

"""Which problem each error is, and how what a client sent wrong is told. Nothing of the input is ever repeated."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from weighbridge.adapters.http.problems import Problem, RefusedRequest, Reply, retry_after
from weighbridge.application.admission import Overloaded
from weighbridge.application.readiness import NotReady
from weighbridge.domain.errors import (
    FeatureCountMismatch,
    FeaturesNotFinite,
    FeatureTooLarge,
    InferenceFailed,
    ModelCrashed,
    ModelNotFound,
    ModelUnavailable,
    PredictionNotFinite,
    TooManyRows,
    VersionNotFound,
    VersionNotLive,
    WeighbridgeError,
)

_MOST_ERRORS = 100
_LONGEST_MESSAGE = 1000  # characters: a column may have thousands of categories, and a model thousands of columns

Location = tuple[str | int, ...]
"""Where in a request something is."""

OfARow = FeatureCountMismatch | FeaturesNotFinite | FeatureTooLarge | PredictionNotFinite
"""The errors of a row that fits its schema."""


def as_response(reply: Reply, headers: Mapping[str, str] | None = None) -> Response:
    """The reply as ASGI servers take it."""
    status, media_type, body = reply
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": retry_after(), **(headers or {})}
    return Response(body, status, headers, media_type.decode())


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


PROBLEM_OF: dict[type[WeighbridgeError], Problem] = {
    FeatureCountMismatch: Problem.FEATURE_COUNT_MISMATCH,
    FeaturesNotFinite: Problem.FEATURES_NOT_FINITE,
    FeatureTooLarge: Problem.FEATURE_TOO_LARGE,
    TooManyRows: Problem.TOO_MANY_ROWS,
    PredictionNotFinite: Problem.PREDICTION_NOT_FINITE,
    ModelNotFound: Problem.MODEL_NOT_FOUND,
    VersionNotFound: Problem.VERSION_NOT_FOUND,
    VersionNotLive: Problem.VERSION_NOT_LIVE,
    InferenceFailed: Problem.INFERENCE_FAILED,
    ModelCrashed: Problem.MODEL_CRASHED,
    ModelUnavailable: Problem.MODEL_UNAVAILABLE,
    Overloaded: Problem.OVERLOADED,
    NotReady: Problem.NOT_READY,
}


Stated = WeighbridgeError | RefusedRequest | HTTPException
"""The errors that an endpoint may raise to be answered with; any other is unforeseen."""

STATED = (WeighbridgeError, RefusedRequest, HTTPException)


def among_instances(exc: OfARow, _body: object) -> Location:
    """Where a row is that came as `features`, or as one of `instances`."""
    return ("body", "features") if exc.row is None else ("body", "instances", exc.row)


def reply_to(exc: Stated, request_id: str, loc: Location = ("body",)) -> Reply:
    """The reply to an error that the domain, the application or an endpoint states; `loc` is where the row is."""
    if isinstance(exc, RefusedRequest):
        return exc.problem.reply(str(exc), request_id)
    if isinstance(exc, HTTPException):
        problem, detail = {
            404: (Problem.NOT_FOUND, "GET / lists the pages of the service"),
            405: (Problem.METHOD_NOT_ALLOWED, "The header Allow lists the supported methods"),
        }.get(exc.status_code, (Problem.BAD_REQUEST, str(exc.detail)))
        return problem.reply(detail, request_id)
    problem = PROBLEM_OF[type(exc)]
    errors = []
    if isinstance(exc, OfARow):
        errors.append({"loc": loc, "code": problem.code, "message": str(exc)})
    return problem.reply(str(exc), request_id, errors)


def reply_to_invalid(exc: ValidationError, request_id: str, accepted: Iterable[str]) -> Reply:
    """The reply to a body that is not JSON or does not fit its schema, whose keys are `accepted`."""
    if exc.error_count() > _MOST_ERRORS:  # naming each of a million unknown keys would be an attack on ourselves
        found = f"The body has {exc.error_count()} errors, too many to list; compare it with the schema"
        return reply_to_items([{"loc": ("body",), "type": "too_many_errors", "msg": found}], request_id, accepted)
    items = exc.errors(include_url=False, include_context=False, include_input=False)
    return reply_to_items([{**item, "loc": ("body", *item["loc"])} for item in items], request_id, accepted)


def reply_to_items(items: Iterable[Mapping[str, Any]], request_id: str, accepted: Iterable[str]) -> Reply:
    """The reply to pydantic's account of what is wrong, each item with `loc`, `type` and `msg`."""
    errors: dict[tuple[Location, str], dict[str, Any]] = {}
    for item in items:
        loc, code, message = item["loc"], item["type"], item["msg"]
        if code == "extra_forbidden":  # the last part of its place is the client's own key
            loc, message = loc[:-1], f"Unknown keys; allowed: {', '.join(accepted)}"
        errors[loc, code] = {"loc": loc, "code": code, "message": _shortened(message)}
    first, *others = errors.values()
    problem = Problem.JSON_INVALID if first["code"] == "json_invalid" else Problem.INPUT_INVALID
    more = f" (and {len(others)} more, see errors)" if others else ""
    return problem.reply(f"{'.'.join(map(str, first['loc']))}: {first['message']}{more}", request_id, [first, *others])


def _shortened(message: str) -> str:
    return message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]} and so on"


def install_handlers(app: FastAPI) -> None:
    """Make every error that a route of `app` raises problem details; compiled routes render their own."""

    @app.exception_handler(HTTPException)
    async def http(request: Request, exc: HTTPException) -> Response:
        if exc.status_code == HTTPStatus.NOT_FOUND and _names_no_model(request):
            return as_response(reply_to(ModelNotFound(), request.state.request_id))
        headers = dict(exc.headers or {})
        if "GET" in headers.get("Allow", ""):
            headers["Allow"] = ", ".join(sorted({"HEAD", *headers["Allow"].split(", ")}))
        return as_response(reply_to(exc, request.state.request_id), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> Response:
        return as_response(reply_to_items(exc.errors(), request.state.request_id, ["those of the schema"]))

    @app.exception_handler(RefusedRequest)
    @app.exception_handler(WeighbridgeError)
    async def stated(request: Request, exc: WeighbridgeError | RefusedRequest) -> Response:
        return as_response(reply_to(exc, request.state.request_id))


def _names_no_model(request: Request) -> bool:
    """Whether the path is beneath the models, but not beneath one of them: so every bad name gets the same reply."""
    _, models, beneath = request.scope["path"].partition("/models/")
    return bool(models) and beneath.split("/")[0] not in request.app.state.container.models().entries

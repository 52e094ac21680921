"""A route whose endpoint is compiled, at start-up, to one function from headers and body to a whole reply.

FastAPI's own handler decodes a body by `request.json()` and validates in Python mode: a byte order mark passes, a lone
surrogate is a 500. Here pydantic reads the bytes itself. The endpoint stays an ordinary, typed FastAPI function; one
that is a plain `def` with at most one pydantic body, and otherwise only application-scoped dependencies, is compiled.
Any other takes FastAPI's ordinary way, and `obstacle` says why.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from inspect import iscoroutinefunction, signature
from itertools import cycle
from time import perf_counter
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.datastructures import DefaultPlaceholder
from fastapi.params import Body
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect

from weighbridge.adapters.http.deadline import too_late
from weighbridge.adapters.http.dependencies import ApplicationScoped
from weighbridge.adapters.http.errors import (
    STATED,
    Location,
    OfARow,
    Stated,
    among_instances,
    as_response,
    reply_to,
    reply_to_invalid,
)
from weighbridge.adapters.http.problems import Problem, RefusedRequest, Reply, internal_error, overloaded
from weighbridge.adapters.metrics import NO_MODEL, Durations, ModelLabel, RouteMetrics
from weighbridge.adapters.telemetry import RequestTelemetry
from weighbridge.application.admission import SHORT, Overloaded, ServiceTime
from weighbridge.application.live import Later
from weighbridge.application.queue import Queue
from weighbridge.application.readiness import NotReady
from weighbridge.domain.errors import InferenceFailed, ModelCrashed

Headers = Mapping[bytes, bytes]
"""Names in lower case; the values of repeated ones joined by a comma."""

Call = Callable[[Headers, bytes | bytearray, str, float], "Reply | asyncio.Task[Reply]"]
"""From the headers, the body, the request id and the deadline, in seconds of perf_counter, to the reply.

It is a task where the reply comes later; whoever wants it no more cancels that.
"""

_GRACE_SECONDS = 0.001  # event loops may round a time down by this; what is late must be so for everyone
_ONE_IN = 16  # of the requests that have a body are timed by stage: timing all would take some 8% of the fast lane

_MANY_KEYS = 10_000

_JSON = re.compile(rb"application/json\s*(;.*)?", re.IGNORECASE)
_CHARSET = re.compile(rb';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_UTF8 = (b"utf-8", b"utf8", b"csutf8", b"unicode-1-1-utf-8")
"""The names of UTF-8, by IANA's registry and by the Encoding Standard of WHATWG."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done with a body.

    `read` makes a value of headers and body, or raises ValidationError or RefusedRequest; `score` makes an answer of
    it, now or later, or raises an error of STATED; `write` gives the answer's media type and bytes. `accepted` are the
    keys that a body may have, and `locate` says where in it a row is. `admit` is asked first, with the seconds that are
    left, and raises an error of STATED where they are too few.
    """

    read: Callable[[Headers, bytes | bytearray], Any]
    score: Callable[..., Any]
    write: Callable[[Any, Headers], tuple[bytes, bytes]]
    accepted: Iterable[str]
    locate: Callable[[OfARow, Any], Location] = among_instances
    admit: Callable[[float], None] | None = None

    def compiled(
        self, path: str, model: ModelLabel, telemetry: RequestTelemetry, *others: Any, status: int = 200
    ) -> Call:
        """The steps as one function, timed as stages of the route with this path; `score` is given `others`, too."""
        accepted, admit = self.accepted, self.admit
        next_stages = _timed_now_and_then((self.read, self.score, self.write), telemetry.metrics.stages(path, model))

        def answer(
            headers: Headers, body: bytes | bytearray, request_id: str, deadline: float
        ) -> Reply | asyncio.Task[Reply]:
            read, score, write = next_stages()
            try:
                if admit is not None:
                    admit(deadline - perf_counter())
                value = read(headers, body)
            except ValidationError as exc:
                return reply_to_invalid(exc, request_id, accepted)
            except Overloaded:
                telemetry.shed("queue")
                return overloaded(request_id)
            except STATED as exc:
                return reply_to(exc, request_id)
            try:
                scored = score(value, *others)
                if isinstance(scored, Later):
                    reply = scored.then(partial(_reply, status, write, headers))  # a closure would slow all others
                    return self._later(reply, value, telemetry, request_id, deadline)
                return status, *write(scored, headers)
            except STATED as exc:
                return self._refused(exc, value, telemetry, request_id)

        return answer

    def _later(
        self, reply: Later[Reply], value: Any, telemetry: RequestTelemetry, request_id: str, deadline: float
    ) -> asyncio.Task[Reply]:
        """Gives a reply once it is there, or that it is too late; to cancel the task takes the rows back."""

        async def replied() -> Reply:
            try:
                async with asyncio.timeout(deadline - perf_counter() + _GRACE_SECONDS):
                    with suppress(Exception):  # which `finish` raises
                        await reply.outputs
                return reply.finish()
            except TimeoutError:
                return too_late(request_id)
            except STATED as exc:
                return self._refused(exc, value, telemetry, request_id)
            except Exception as exc:
                telemetry.failed(exc, request_id=request_id)
                return internal_error(request_id)

        task = asyncio.create_task(replied())
        task.add_done_callback(lambda _: reply.outputs.cancel())
        return task

    def _refused(self, exc: Stated, value: Any, telemetry: RequestTelemetry, request_id: str) -> Reply:
        if isinstance(exc, InferenceFailed | ModelCrashed):
            telemetry.failed(exc, request_id=request_id)
        return reply_to(exc, request_id, self.locate(exc, value) if isinstance(exc, OfARow) else ())


def _reply(status: int, write: Callable[[Any, Headers], tuple[bytes, bytes]], headers: Headers, found: Any) -> Reply:
    return status, *write(found, headers)


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """A compiled route: its call, where its requests are counted, the model that it asks, and how long they take.

    `waits` is where their time in the queue is counted; None where they never wait, for no model is asked. `is_remote`
    where a model is asked in another process: its replies come later.
    """

    call: Call
    metrics: RouteMetrics
    model: ModelLabel = NO_MODEL
    waits: Durations | None = None
    is_remote: bool = False
    service_time: ServiceTime = field(default_factory=ServiceTime)

    @property
    def is_quick(self) -> bool:
        """Whether its requests are taken up as they come; so is what asks no model here, probes above all."""
        return self.service_time.mean < SHORT or self.waits is None or self.is_remote


class FastRoute(APIRoute):
    """An APIRoute that answers by the compiled form of its endpoint, where it has one.

    A body's model may have a classmethod `read(headers, body)` that makes it from other forms than JSON, or faster;
    a reply's type a method `write(headers)` that gives media type and bytes. Both roads use them.
    """

    model: ModelLabel = NO_MODEL
    """Which one answers; requests to a route that asks none never wait."""

    @property
    def obstacle(self) -> str | None:
        """Why the endpoint cannot be compiled; None when it can."""
        needs = self.dependant
        obstacles = {
            "the endpoint is async": iscoroutinefunction(self.endpoint),
            "the endpoint has no typed reply": self.response_model is None,
            "the route changes how the reply is written": self._writes_its_own_way(),
            "the endpoint takes parameters from outside the body": bool(
                needs.path_params or needs.query_params or needs.header_params or needs.cookie_params
            ),
            "the endpoint's body is not one pydantic model in JSON, as its first parameter": bool(needs.body_params)
            and not (
                [field.name for field in needs.body_params] == list(signature(self.endpoint).parameters)[:1]
                and _is_json_model(needs.body_params[0].field_info)
            ),
            "the endpoint has a dependency that is not application-scoped": not all(
                isinstance(dependency.call, ApplicationScoped) for dependency in needs.dependencies
            ),
            "the endpoint asks for the request or the response": any(
                getattr(needs, f"{what}_param_name")
                for what in ("request", "websocket", "http_connection", "response", "background_tasks")
            ),
        }
        return next((why for why, stands in obstacles.items() if stands), None)

    def compile(self, app: FastAPI) -> Call:
        """The endpoint as one function, bound to the dependencies of an `app` that has started."""
        endpoint = self.endpoint
        bound = {needs.name: cast("ApplicationScoped", needs.call).of(app) for needs in self.dependant.dependencies}
        others = [bound[name] for name in signature(endpoint).parameters if name in bound]
        write = getattr(self.response_model, "write", None) or _json_writer(self.response_model)
        status = self.status_code or 200

        if not self.dependant.body_params:

            def answer(headers: Headers, _body: bytes | bytearray, request_id: str, _deadline: float) -> Reply:
                try:
                    return status, *write(endpoint(*others), headers)
                except STATED as exc:
                    return reply_to(exc, request_id)

            return answer

        body = cast("type[BaseModel]", self.dependant.body_params[0].field_info.annotation)
        read = getattr(body, "read", None) or _json_reader(body)
        steps = Steps(read, endpoint, write, body.model_fields)
        return steps.compiled(self.path, self.model, ApplicationScoped("telemetry").of(app), *others, status=status)

    def _writes_its_own_way(self) -> bool:
        return bool(
            self.response_model_include
            or self.response_model_exclude
            or self.response_model_exclude_unset
            or self.response_model_exclude_defaults
            or self.response_model_exclude_none
            or not self.response_model_by_alias
            or not isinstance(self.response_class, DefaultPlaceholder)
        )

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's hook: the handler that answers on any ASGI server."""
        if self.obstacle is not None:
            return super().get_route_handler()
        endpoint, takes_body = self.endpoint, bool(self.dependant.body_params)

        async def handle(request: Request) -> Response:
            route: CompiledRoute | None = request.app.state.calls.get(endpoint)
            if route is None:
                raise NotReady("starting")
            return await answer(route, request, takes_body=takes_body)

        return handle


async def answer(route: CompiledRoute, request: Request, *, takes_body: bool = True) -> Response:
    """The reply of a compiled route, as ASGI servers take it. Raises RefusedRequest."""
    request.state.model = route.model
    headers, request_id = joined(request.scope["headers"]), request.state.request_id
    body = await _read(request) if takes_body else b""
    deadline: float = request.state.deadline
    waits = route.waits
    if waits is None or route.is_quick:
        return as_response(await _called(route, request, headers, body, request_id, deadline))
    queue: Queue = request.app.state.container.queue()
    came = perf_counter()
    try:
        async with queue.turn(route.service_time, deadline - came):
            waits.observe(perf_counter() - came)
            reply = await _called(route, request, headers, body, request_id, deadline)
    except Overloaded:
        request.app.state.container.telemetry().shed("queue")
        reply = overloaded(request_id)
    return as_response(reply)


async def _called(route: CompiledRoute, request: Request, *asked: Any) -> Reply:
    """The reply, once it is there; how long it took is taken into account, unless it took that elsewhere.

    Raises ClientDisconnect where the client goes before: nobody wants the reply then.
    """
    began = perf_counter()
    called = route.call(*asked)
    reply = called if isinstance(called, tuple) else await _arrived(called, request)
    if not route.is_remote:
        route.service_time.observe(perf_counter() - began)
    return reply


async def _arrived(reply: asyncio.Task[Reply], request: Request) -> Reply:
    """A reply that comes later. Raises ClientDisconnect."""
    gone = asyncio.ensure_future(request.receive())  # its body has come: this is all that can come next
    try:
        await asyncio.wait({reply, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not reply.done():
            raise ClientDisconnect
        return reply.result()
    finally:
        gone.cancel()
        reply.cancel()


def compile_routes(app: FastAPI) -> list[tuple[FastRoute, CompiledRoute]]:
    """Every route of `app` that can be compiled, with its compiled form."""
    metrics = ApplicationScoped("telemetry").of(app).metrics
    routes = (context.original_route for context in iter_route_contexts(app.routes))
    return [
        (
            route,
            CompiledRoute(
                route.compile(app),
                metrics.route(route.path, route.model),
                route.model,
                None if route.model is NO_MODEL else metrics.queue_wait(route.model),
            ),
        )
        for route in routes
        if isinstance(route, FastRoute) and not route.obstacle
    ]


def check_is_json(headers: Headers, alternative: str = "") -> None:
    """Raises RefusedRequest unless the headers announce uncompressed JSON in UTF-8."""
    media_type = headers.get(b"content-type", b"")
    if media_type != b"application/json" and not _is_json(media_type):
        raise RefusedRequest(Problem.UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be application/json{alternative}")
    check_is_plain(headers)


def _is_json(media_type: bytes) -> bool:
    """Whether it is JSON in UTF-8, whatever other parameters there are."""
    charsets = _CHARSET.findall(media_type)
    return bool(_JSON.fullmatch(media_type)) and all(charset.lower() in _UTF8 for charset in charsets)


def check_is_plain(headers: Headers) -> None:
    """Raises RefusedRequest for a body that is compressed."""
    if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
        raise RefusedRequest(
            Problem.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is not supported; send the body uncompressed"
        )


class _Object(BaseModel):
    """A JSON object, whatever its keys."""


def check_keys(body: bytes | bytearray) -> None:
    """Raises ValidationError for a body of thousands of keys, where few are known and no texts are.

    To make an error of each would hold up the process for seconds.
    """
    if len(body) > _MANY_KEYS and body.count(b":") > _MANY_KEYS:
        _Object.model_validate_json(body)
        error = PydanticCustomError("too_many_errors", "The body has thousands of keys; compare it with the schema")
        raise ValidationError.from_exception_data("body", [{"type": error, "loc": (), "input": None}])


def _json_reader(model: type[BaseModel]) -> Callable[[Headers, bytes | bytearray], Any]:
    validate_json = model.__pydantic_validator__.validate_json

    def read(headers: Headers, body: bytes | bytearray) -> Any:
        check_is_json(headers)
        check_keys(body)
        return validate_json(body)

    return read


def _json_writer(reply: Any) -> Callable[[Any, Headers], tuple[bytes, bytes]]:
    to_json = TypeAdapter(reply).serializer.to_json

    def write(value: Any, _headers: Headers) -> tuple[bytes, bytes]:
        return b"application/json", to_json(value, by_alias=True)

    return write


def _timed_now_and_then(
    stages: Sequence[Callable[..., Any]], durations: Sequence[Durations]
) -> Callable[[], Sequence[Callable[..., Any]]]:
    """What gives the stages for each request in turn: as they are, or for one in 16 so that they are timed."""
    timed = [_timed(stage, duration) for stage, duration in zip(stages, durations, strict=True)]
    return cycle([*[stages] * (_ONE_IN - 1), timed]).__next__


def _timed(stage: Callable[..., Any], durations: Durations) -> Callable[..., Any]:
    def run(*values: Any) -> Any:
        started = perf_counter()

        def ended(*_: object) -> None:
            durations.observe(perf_counter() - started)

        given = None
        try:
            given = stage(*values)
            return given
        finally:
            if isinstance(given, Later):
                given.outputs.add_done_callback(ended)
            else:
                ended()

    return run


def joined(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Header lines, with names in lower case, as a mapping; repeated ones are joined by a comma (RFC 9110, 5.3)."""
    by_name: dict[bytes, bytes] = {}
    for name, value in headers:
        by_name[name] = by_name[name] + b", " + value if name in by_name else value
    return by_name


def _is_json_model(field: FieldInfo) -> bool:
    model = field.annotation
    is_model = isinstance(model, type) and issubclass(model, BaseModel)
    return type(field) is Body and not field.embed and field.is_required() and is_model


async def _read(request: Request) -> bytes:
    """The whole body. Raises RefusedRequest as soon as it is larger than the settings allow."""
    limit = request.app.state.max_body_bytes
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise RefusedRequest(Problem.BODY_TOO_LARGE, f"The body may have at most {limit} bytes")
    return bytes(body)

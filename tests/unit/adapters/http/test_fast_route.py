from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Body, Cookie, Depends, Header, HTTPException, Request, Response
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.testclient import TestClient

from tests.contract import JSON
from tests.unit.log import Log
from tests.waiting import until
from weighbridge.adapters.http.dependencies import PredictDep, ReadinessDep
from weighbridge.adapters.http.fast_route import FastRoute
from weighbridge.adapters.metrics import STAGE
from weighbridge.adapters.series import SECONDS, read
from weighbridge.domain.errors import TooManyRows
from weighbridge.entrypoints.asgi import create_app


class Parcel(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    weight: float


class Label(BaseModel):
    text: str = "fragile"


class Price(BaseModel):
    cents: int
    note: str | None = Field(None, alias="remark")


BY_WEIGHT = {"weight": 2.5}
STANDARD = Parcel(weight=2.5)


async def surcharge() -> int:
    """A dependency that is worked out for each request."""
    return 0


Surcharge = Annotated[int, Depends(surcharge)]


def price(parcel: Parcel) -> Price:
    return Price(cents=round(parcel.weight * 100))


async def asynchronous(parcel: Parcel) -> Price:
    return price(parcel)


def without_a_type(parcel: Parcel) -> Response:
    return JSONResponse({"cents": price(parcel).cents})


def with_a_query(parcel: Parcel, surcharge: int = 0) -> Price:
    return Price(cents=price(parcel).cents + surcharge)


def with_a_path(zone: int, parcel: Parcel) -> Price:
    return Price(cents=price(parcel).cents * zone)


def with_a_header(parcel: Parcel, surcharge: Annotated[int, Header()] = 0) -> Price:
    return with_a_query(parcel, surcharge)


def with_a_cookie(parcel: Parcel, surcharge: Annotated[int, Cookie()] = 0) -> Price:
    return with_a_query(parcel, surcharge)


def with_two_models(parcel: Parcel, label: Label) -> Price:
    return Price(cents=price(parcel).cents, remark=label.text)


def with_an_embedded_model(parcel: Annotated[Parcel, Body(embed=True)]) -> Price:
    return price(parcel)


def with_a_list(parcels: list[Parcel]) -> Price:
    return Price(cents=sum(price(parcel).cents for parcel in parcels))


def with_an_optional_model(parcel: Annotated[Parcel, Body()] = STANDARD) -> Price:
    return price(parcel)


def with_a_dependency(parcel: Parcel, surcharge: Surcharge) -> Price:
    return with_a_query(parcel, surcharge)


def with_the_request(parcel: Parcel, request: Request) -> Price:
    return with_a_query(parcel, len(request.query_params))


def with_the_connection(parcel: Parcel, connection: HTTPConnection) -> Price:
    return with_a_query(parcel, len(connection.query_params))


def with_the_response(parcel: Parcel, response: Response) -> Price:
    response.headers["x-currency"] = "EUR"
    return price(parcel)


def with_background_tasks(parcel: Parcel, tasks: BackgroundTasks) -> Price:
    tasks.add_task(surcharge)
    return price(parcel)


@dataclass(frozen=True)
class Uncompiled:
    """An endpoint that cannot be compiled, why, and a body for it with one that it refuses."""

    endpoint: Callable[..., Any]
    why: str
    path: str = "/price"
    options: dict[str, Any] = field(default_factory=dict)
    good: Any = field(default_factory=lambda: BY_WEIGHT)
    bad: Any = field(default_factory=lambda: {"weight": "heavy"})

    def __str__(self) -> str:
        return " ".join([self.endpoint.__name__, *self.options])


FROM_OUTSIDE = "the endpoint takes parameters from outside the body"
NOT_ONE_MODEL = "the endpoint's body is not one pydantic model in JSON, as its first parameter"
ITS_OWN_WAY = "the route changes how the reply is written"
ASKS = "the endpoint asks for the request or the response"
UNCOMPILED = [
    Uncompiled(asynchronous, "the endpoint is async"),
    Uncompiled(without_a_type, "the endpoint has no typed reply"),
    Uncompiled(with_a_query, FROM_OUTSIDE),
    Uncompiled(with_a_path, FROM_OUTSIDE, path="/price/{zone}"),
    Uncompiled(with_a_header, FROM_OUTSIDE),
    Uncompiled(with_a_cookie, FROM_OUTSIDE),
    Uncompiled(with_two_models, NOT_ONE_MODEL, good={"parcel": BY_WEIGHT, "label": {}}),
    Uncompiled(with_an_embedded_model, NOT_ONE_MODEL, good={"parcel": BY_WEIGHT}),
    Uncompiled(with_a_list, NOT_ONE_MODEL, good=[BY_WEIGHT]),
    Uncompiled(with_an_optional_model, NOT_ONE_MODEL),
    Uncompiled(with_a_dependency, "the endpoint has a dependency that is not application-scoped"),
    Uncompiled(with_the_request, ASKS),
    Uncompiled(with_the_connection, ASKS),
    Uncompiled(with_the_response, ASKS),
    Uncompiled(with_background_tasks, ASKS),
    Uncompiled(price, ITS_OWN_WAY, options={"response_model_include": {"cents"}}),
    Uncompiled(price, ITS_OWN_WAY, options={"response_model_exclude": {"note"}}),
    Uncompiled(price, ITS_OWN_WAY, options={"response_model_exclude_unset": True}),
    Uncompiled(price, ITS_OWN_WAY, options={"response_model_exclude_defaults": True}),
    Uncompiled(price, ITS_OWN_WAY, options={"response_model_exclude_none": True}),
    Uncompiled(price, ITS_OWN_WAY, options={"response_model_by_alias": False}),
    Uncompiled(price, ITS_OWN_WAY, options={"response_class": JSONResponse}),
]


@dataclass(frozen=True)
class Shop:
    """The service with one more route."""

    route: FastRoute
    client: TestClient

    def ask(self, body: bytes | str, path: str = "/price") -> Any:
        return self.client.post(path, content=body, headers=JSON)


@contextmanager
def shop(log: Log, endpoint: Callable[..., Any], path: str = "/price", **options: Any) -> Iterator[Shop]:
    router = APIRouter(route_class=FastRoute)
    router.post(path, **options)(endpoint)
    [route] = router.routes
    assert isinstance(route, FastRoute)
    app = create_app(log.container())
    app.include_router(router)
    with TestClient(app) as client:
        yield Shop(route, client)


def stage_counts(log: Log) -> dict[str, float]:
    """How many requests to /price were timed, by stage."""
    return {key[-1]: sum(values[:SECONDS]) for key, values in read(log.memory) if key[:2] == (STAGE, "/price")}


def test_a_plain_function_of_one_model_is_compiled(log: Log) -> None:
    with shop(log, price) as started:
        assert started.route.obstacle is None
        assert started.ask('{"weight":2.5}').json() == {"cents": 250, "remark": None}
        assert started.ask('{"weight":"heavy"}').json()["code"] == "input_invalid"


def test_a_function_without_a_body_is_compiled(log: Log) -> None:
    def cheapest() -> Price:
        return Price(cents=1)

    with shop(log, cheapest) as started:
        assert started.route.obstacle is None
        assert started.ask("").json() == {"cents": 1, "remark": None}


def test_a_function_without_a_body_may_state_an_error(log: Log) -> None:
    def refuse() -> Price:
        raise TooManyRows(limit=1, got=2)

    with shop(log, refuse) as started:
        assert started.ask("").json()["code"] == "too_many_rows"


def test_one_request_in_16_is_timed_by_stage(log: Log) -> None:
    with shop(log, price) as started:
        for _ in range(15):
            started.ask('{"weight":2.5}')
        before = stage_counts(log)
        for _ in range(17):
            assert started.ask('{"weight":2.5}').json() == {"cents": 250, "remark": None}

    assert before == {"read": 0, "score": 0, "write": 0}
    assert stage_counts(log) == {"read": 2, "score": 2, "write": 2}


def test_of_a_refused_request_only_the_stages_that_began_are_timed(log: Log) -> None:
    def refuse(_parcel: Parcel) -> Price:
        raise TooManyRows(limit=1, got=2)

    with shop(log, refuse) as started:
        for _ in range(16):
            assert started.ask('{"weight":2.5}').status_code == 413
        for _ in range(16):
            assert started.ask('{"weight":"heavy"}').status_code == 422

    assert stage_counts(log) == {"read": 2, "score": 1, "write": 0}


def test_the_time_of_a_stage_is_that_which_it_took(log: Log) -> None:
    def ponder(parcel: Parcel) -> Price:
        end = perf_counter() + 0.02
        until(lambda: perf_counter() > end)
        return price(parcel)

    with shop(log, ponder) as started:
        for _ in range(16):
            started.ask('{"weight":2.5}')

    seconds = {key[-1]: values[SECONDS] for key, values in read(log.memory) if key[:2] == (STAGE, "/price")}
    assert seconds["score"] > 0.02
    assert seconds["score"] > seconds["read"] > 0
    assert seconds["score"] > seconds["write"] > 0


def test_application_scoped_dependencies_are_bound(log: Log) -> None:
    def weigh(parcel: Parcel, predict: PredictDep, readiness: ReadinessDep) -> Price:
        readiness.check()
        return Price(cents=round(predict([parcel.weight, 0, 0, 0])))

    with shop(log, weigh) as started:
        assert started.route.obstacle is None
        assert started.ask('{"weight":100}').json() == {"cents": 25, "remark": None}


def test_application_scoped_dependencies_reach_what_is_not_compiled(log: Log) -> None:
    async def weigh(parcel: Parcel, predict: PredictDep) -> Price:
        return Price(cents=round(predict([parcel.weight, 0, 0, 0])))

    with shop(log, weigh) as started:
        assert started.route.obstacle is not None
        assert started.ask('{"weight":100}').json() == {"cents": 25, "remark": None}


def test_a_compiled_route_keeps_its_status(log: Log) -> None:
    with shop(log, price, status_code=201) as started:
        assert started.route.obstacle is None
        assert started.ask('{"weight":2.5}').status_code == 201


def test_a_compiled_route_may_state_an_error_of_the_domain(log: Log) -> None:
    def refuse(_parcel: Parcel) -> Price:
        raise TooManyRows(limit=1, got=2)

    with shop(log, refuse) as started:
        reply = started.ask('{"weight":2.5}')

    assert (reply.status_code, reply.json()["code"]) == (413, "too_many_rows")


def test_a_compiled_route_may_raise_an_http_exception(log: Log) -> None:
    def lose(_parcel: Parcel) -> Price:
        raise HTTPException(404)

    with shop(log, lose) as started:
        reply = started.ask('{"weight":2.5}')

    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("uncompiled", UNCOMPILED, ids=str)
def test_what_cannot_be_compiled_says_why_and_works_the_ordinary_way(log: Log, uncompiled: Uncompiled) -> None:
    path = uncompiled.path.format(zone=1)

    with shop(log, uncompiled.endpoint, uncompiled.path, **uncompiled.options) as started:
        assert started.route.obstacle == uncompiled.why
        good = started.client.post(path, json=uncompiled.good)
        bad = started.client.post(path, json=uncompiled.bad)

    assert (good.status_code, good.json()["cents"]) == (200, 250)
    assert bad.headers["content-type"] == "application/problem+json"
    assert (bad.status_code, bad.json()["code"]) == (422, "input_invalid")
    assert "heavy" not in bad.text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"nonsense", 422, "json_invalid"),
        (b'{"weight":1,"colour":2}', 422, "input_invalid"),
        (b'{"weight":NaN}', 200, None),
        (b'{"\xff":1}', 400, "bad_request"),
    ],
)
def test_a_bad_body_gets_problem_details_the_ordinary_way_too(
    log: Log, body: bytes, status: int, code: str | None
) -> None:
    async def weight_of(parcel: Parcel) -> Label:
        return Label(text=str(parcel.weight))

    with shop(log, weight_of) as started:
        reply = started.ask(body)

    assert (reply.status_code, reply.json().get("code")) == (status, code)
    assert "colour" not in reply.text


def test_an_error_of_the_domain_gets_problem_details_the_ordinary_way_too(log: Log) -> None:
    async def refuse(_parcel: Parcel) -> Price:
        raise TooManyRows(limit=1, got=2)

    with shop(log, refuse) as started:
        reply = started.ask('{"weight":2.5}')

    assert (reply.status_code, reply.json()["code"]) == (413, "too_many_rows")


def test_a_wrong_parameter_gets_problem_details_that_name_it(log: Log) -> None:
    with shop(log, with_a_path, "/price/{zone}") as started:
        reply = started.ask('{"weight":2.5}', "/price/faraway")

    assert reply.status_code == 422
    assert [item["loc"] for item in reply.json()["errors"]] == [["path", "zone"]]
    assert "faraway" not in reply.text


def test_nothing_is_compiled_before_the_application_has_started(log: Log) -> None:
    container = log.container()
    client = TestClient(create_app(container))

    reply = client.get("/health")
    container.shutdown_resources()

    assert (reply.status_code, reply.json()["detail"]) == (503, "starting")

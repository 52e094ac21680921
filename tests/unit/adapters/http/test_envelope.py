from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import pytest
from dependency_injector import providers
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.contract import GOOD, JSON
from tests.unit.asgi import exchange, header
from tests.unit.log import Log
from weighbridge.container import Container
from weighbridge.entrypoints.asgi import create_app


class FailingUseCase:
    """A use case that fails as nobody foresaw, and says whose row it was."""

    def __call__(self, features: Sequence[float], _scale_factor: float) -> float:
        message = f"cannot divide {features} by zero"
        raise ZeroDivisionError(message)


@pytest.fixture
def failing(log: Log) -> Container:
    """A container whose predictions fail."""
    container = log.container()
    container.predict.override(providers.Object(FailingUseCase()))
    return container


def is_made(request_id: str) -> bool:
    prefix, _, count = request_id.partition("-")
    return len(prefix) == 12 and int(prefix, 16) >= 0 and int(count, 16) >= 0


# Request ids


@pytest.mark.parametrize("sane", ["a", "7", "0f8fad5b-d9cb-469f-a165-70867728950e", "A.z_0-9", "x" * 64])
def test_a_sane_request_id_is_kept(client: TestClient, sane: str) -> None:
    assert client.get("/health", headers={"x-request-id": sane}).headers["x-request-id"] == sane


@pytest.mark.parametrize(
    "given",
    [
        [b""],
        [b"x" * 65],
        [b"x" * 10_000],
        [b'"quoted"'],
        [b"it's"],
        [b"a b"],
        [b"a\r\nset-cookie: b"],
        [b"a\n"],
        [b"\x00"],
        [b"\xff"],
        ["\N{SNOWMAN}".encode()],
        [b"${jndi:ldap://example}"],
        [b"a,b"],
        [b"one", b"two"],
        [b"same", b"same"],
        [],
    ],
)
def test_any_other_request_id_is_replaced(client: TestClient, given: list[bytes]) -> None:
    sent = exchange(client, [], method="GET", path="/health", headers=[(b"x-request-id", value) for value in given])

    assert is_made(header(sent, b"x-request-id").decode())


def test_no_two_requests_are_given_the_same_id(client: TestClient) -> None:
    assert len({client.get("/health").headers["x-request-id"] for _ in range(20)}) == 20


@pytest.mark.parametrize("path", ["/predict", "/nothing", "/docs", "/docs/assets/favicon.png"])
def test_every_reply_carries_its_request_id_once(client: TestClient, path: str) -> None:
    reply = client.get(path, headers={"x-request-id": "mine"})

    assert reply.headers.get_list("x-request-id") == ["mine"]


def test_a_problem_names_its_request_id(client: TestClient) -> None:
    assert client.get("/nothing", headers={"x-request-id": "mine"}).json()["request_id"] == "mine"


# Errors that nobody foresaw


def test_an_unforeseen_error_is_a_500_that_tells_the_client_nothing_of_it(failing: Container) -> None:
    with TestClient(create_app(failing)) as client:
        reply = client.post("/predict", content=GOOD, headers=JSON | {"x-request-id": "mine"})

    assert reply.status_code == 500
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-request-id"] == "mine"
    assert reply.json() == {
        "type": "urn:weighbridge:internal_error",
        "title": "The service failed",
        "status": 500,
        "detail": "the request is not to blame; the service's log has the cause",
        "code": "internal_error",
        "request_id": "mine",
    }


@pytest.mark.parametrize("policy", ["failed", "all", "none"])
def test_an_unforeseen_error_is_logged_once_with_its_traceback(
    log: Log, policy: Literal["failed", "all", "none"]
) -> None:
    container = log.container(log_requests=policy)
    container.predict.override(providers.Object(FailingUseCase()))

    with TestClient(create_app(container)) as client:
        client.post("/predict", content=GOOD, headers=JSON | {"x-request-id": "mine"})

    [line] = [line for line in log.events if "exception" in line]
    assert (line["event"], line["level"], line["request_id"]) == ("request_failed", "error", "mine")
    assert line["exception"].startswith("Traceback (most recent call last):")
    assert "ZeroDivisionError: cannot divide [1.5, 2.25, -0.75, 4.0] by zero" in line["exception"]


def test_a_request_that_failed_here_is_logged_as_an_error(log: Log, failing: Container) -> None:
    with TestClient(create_app(failing)) as client:
        client.post("/predict", content=GOOD, headers=JSON)
        client.post("/predict", content=b"", headers=JSON)

    assert [(line["status"], line["level"]) for line in log.of("request")] == [(500, "error"), (422, "info")]


def test_an_unforeseen_error_harms_no_later_request(failing: Container) -> None:
    with TestClient(create_app(failing)) as client:
        client.post("/predict", content=GOOD, headers=JSON)

        assert client.get("/health").status_code == 200


def test_an_error_in_the_middle_of_a_reply_is_logged_and_left_to_the_server(log: Log) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    async def stream(_request: Request) -> StreamingResponse:
        return StreamingResponse(broken())

    app = create_app(log.container())
    app.add_route("/stream", stream)
    with TestClient(app) as client, pytest.raises(ZeroDivisionError):
        client.get("/stream")

    assert len(log.of("request_failed")) == 1


# Clients that go away


def test_a_client_that_goes_away_while_its_body_is_read_leaves_no_traceback(log: Log) -> None:
    part = {"type": "http.request", "body": GOOD[:10], "more_body": True}

    with TestClient(create_app(log.container(log_level="debug"))) as client:
        sent = exchange(client, [part, {"type": "http.disconnect"}])

    assert sent == []
    assert [line["event"] for line in log.events] == ["service_started", "request_abandoned", "service_stopped"]


# The log of requests


@pytest.mark.parametrize(
    ("settings", "logged"),
    [
        ({}, [422, 404]),
        ({"log_requests": "failed"}, [422, 404]),
        ({"log_requests": "failed", "slow_request_ms": 0}, [200, 422, 404]),
        ({"log_requests": "all"}, [200, 422, 404]),
        ({"log_requests": "none"}, []),
        ({"log_requests": "none", "slow_request_ms": 0}, []),
    ],
)
def test_the_policy_says_which_requests_are_logged(log: Log, settings: dict[str, Any], logged: list[int]) -> None:
    with TestClient(create_app(log.container(**settings))) as client:
        client.get("/health")
        client.post("/predict", content=b"nonsense", headers=JSON)
        client.get("/nothing")

    assert [line["status"] for line in log.of("request")] == logged


def test_a_request_is_logged_with_its_id_and_what_came_of_it(log: Log) -> None:
    with TestClient(create_app(log.container())) as client:
        client.head("/no%20thing?secret=1", headers={"x-request-id": "mine"})

    [line] = log.of("request")
    assert line["duration_ms"] > 0
    assert (line["level"], line["request_id"], line["method"]) == ("info", "mine", "HEAD")
    assert (line["path"], line["status"]) == ("/no%20thing", 404)


def test_a_long_path_is_logged_cut_short(log: Log) -> None:
    with TestClient(create_app(log.container())) as client:
        client.get("/" + "n" * 10_000)

    [line] = log.of("request")
    assert line["path"] == "/" + "n" * 199


def test_a_path_that_is_no_text_is_logged_all_the_same(log: Log) -> None:
    with TestClient(create_app(log.container())) as client:
        exchange(client, [], method="GET", path='/"\x1b\n\N{SNOWMAN}')

    [line] = log.of("request")
    assert line["path"].startswith('/"\x1b\n')


# What the routes do not know


def test_options_for_the_whole_server_lists_the_methods(client: TestClient) -> None:
    sent = exchange(client, [], method="OPTIONS", path="*", headers=[])

    assert sent[0]["status"] == 204
    assert header(sent, b"allow") == b"GET, HEAD, OPTIONS, POST"
    assert is_made(header(sent, b"x-request-id").decode())


def test_a_websocket_is_refused(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), ExitStack() as stack:
        stack.enter_context(client.websocket_connect("/predict"))

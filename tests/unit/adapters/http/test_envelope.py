import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from time import monotonic
from typing import Any, Literal

import pytest
from dependency_injector import providers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.contract import GOOD, JSON
from tests.unit.asgi import exchange, header
from tests.unit.log import Log
from tests.unit.server.behind_gate import Clock
from tests.waiting import until
from weighbridge.adapters.metrics import EXPIRED
from weighbridge.adapters.series import read
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
        "detail": "The request is not to blame; the service's log has the cause",
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


# Deadlines


class LateUseCase:
    """A use case that is ready after half a second, by the clock of the test."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls = 0

    def __call__(self, _features: Sequence[float], _scale_factor: float) -> float:
        self.calls += 1
        self.clock.now += 0.5
        return 1.0


def late(log: Log, use_case: LateUseCase, **settings: Any) -> TestClient:
    """A client of the application with a use case that is late."""
    container = log.container(**settings)
    container.predict.override(providers.Object(use_case))
    return TestClient(create_app(container))


@pytest.mark.parametrize(
    ("deadline_ms", "asked", "status"),
    [
        (600, {}, 200),
        (400, {}, 504),
        (600, {"x-request-timeout-ms": "400"}, 504),
        (400, {"x-request-timeout-ms": "600"}, 504),
    ],
)
def test_a_reply_that_is_ready_only_after_the_deadline_is_not_given(
    log: Log, monkeypatch: pytest.MonkeyPatch, deadline_ms: int, asked: dict[str, str], status: int
) -> None:
    with late(log, LateUseCase(Clock(monkeypatch)), deadline_ms=deadline_ms) as client:
        assert client.post("/predict", content=GOOD, headers=JSON | asked).status_code == status


def test_a_deadline_that_passed_is_a_problem_that_is_counted_and_no_fault(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = log.container(deadline_ms=400)
    container.predict.override(providers.Object(LateUseCase(Clock(monkeypatch))))
    with TestClient(create_app(container)) as client:
        reply = client.post("/predict", content=GOOD, headers=JSON | {"x-request-id": "mine"})

    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers.get_list("x-request-id") == ["mine"]
    assert (reply.json()["code"], reply.json()["request_id"]) == ("deadline_exceeded", "mine")
    assert [values[0] for key, values in read(log.memory) if key == (EXPIRED,)] == [1]
    assert not log.of("request_failed")
    assert [line["status"] for line in log.of("request")] == [504]


def test_the_time_before_the_application_was_called_counts(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    use_case = LateUseCase(clock)
    whole = {"type": "http.request", "body": GOOD, "more_body": False}
    with late(log, use_case, deadline_ms=1000) as client:
        in_time = exchange(client, [whole], state={"first_byte": clock.now - 0.4})
        not_begun = exchange(client, [whole], state={"first_byte": clock.now - 1.1})

    assert (in_time[0]["status"], not_begun[0]["status"]) == (200, 504)
    assert use_case.calls == 1


def endless(log: Log, endpoint: Callable[[Request], Awaitable[Response]]) -> TestClient:
    """A client of the application with another endpoint, at /endless, and next to no time."""
    app = create_app(log.container(deadline_ms=20))
    app.add_route("/endless", endpoint)
    return TestClient(app)


def test_an_endpoint_is_cancelled_at_the_deadline_of_the_loops_own_clock(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)  # the other one stands still
    cancelled: list[bool] = []

    async def wait(_request: Request) -> Response:
        try:
            return await asyncio.Future[Response]()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with endless(log, wait) as client:
        assert client.get("/endless").json()["code"] == "deadline_exceeded"
    assert cancelled == [True]
    assert not log.of("request_failed")


def test_an_endpoint_that_will_not_be_cancelled_is_late_all_the_same(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)

    async def insist(_request: Request) -> Response:
        with suppress(asyncio.CancelledError):
            await asyncio.Future[None]()
        return Response("done")

    with endless(log, insist) as client:
        assert client.get("/endless").json()["code"] == "deadline_exceeded"


def test_a_reply_that_has_begun_is_sent_to_its_end(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        clock.now += 10
        end = monotonic() + 0.03  # by then the timer of the deadline would have cancelled this
        await asyncio.to_thread(until, lambda: monotonic() > end)
        yield b"two"

    async def stream(_request: Request) -> StreamingResponse:
        return StreamingResponse(parts())

    with endless(log, stream) as client:
        assert client.get("/endless").text == "one two"


def test_a_timeout_of_the_endpoints_own_is_its_fault(log: Log) -> None:
    async def give_up(_request: Request) -> Response:
        raise TimeoutError

    app = create_app(log.container())
    app.add_route("/endless", give_up)
    with TestClient(app) as client:
        assert client.get("/endless").json()["code"] == "internal_error"
    assert len(log.of("request_failed")) == 1


def test_an_error_that_comes_after_the_deadline_is_late_and_is_logged(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    async def fail(_request: Request) -> Response:
        clock.now += 10
        raise ZeroDivisionError

    with endless(log, fail) as client:
        assert client.get("/endless").json()["code"] == "deadline_exceeded"
    assert len(log.of("request_failed")) == 1


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

"""Replies that come later, for a model is called in another process: a test says when, and what becomes of it."""

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.log import Log
from tests.unit.models import CHURN, FakeClient, FakeModel, constant, outputs
from tests.unit.server.behind_gate import Clock, Connection, Served, served
from weighbridge.adapters.http.fast_route import CompiledRoute
from weighbridge.adapters.metrics import ABANDONED, EXPIRED, QUEUE_WAIT, REQUEST, SHED, STAGE
from weighbridge.adapters.series import SECONDS, read
from weighbridge.application.admission import Overloaded, ServiceTime
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import FeatureTooLarge, ModelCrashed, ModelUnavailable
from weighbridge.domain.signature import Column, Kind, Signature

ROW = b'{"age":30,"signup_month":"June"}'
TARGET = b"/models/churn/predict"
LINE = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def asking(body: bytes = ROW, *, target: bytes = TARGET, more: bytes = b"") -> bytes:
    return LINE % target + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


LATER = asking()
ROAD = asking(target=TARGET + b"?x=1")
HASTY = asking(more=b"X-Request-Timeout-Ms: 20\r\n")
LAST = asking(more=b"Connection: close\r\n")
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
MISSING = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
OK, NOT_FOUND, OVERLOADED, LATE = "200", "404 not_found", "503 overloaded", "504 deadline_exceeded"
LONG = 1000.0


@dataclass
class Runners:
    """The application with a model that is called in runners."""

    here: Served
    client: FakeClient
    log: Log

    def waiting(self, *requests: bytes) -> list[Connection]:
        """Connections, each with one of the requests."""
        connections = [self.here.connect() for _ in requests]
        for connection, request in zip(connections, requests, strict=True):
            connection.receive(request)
        return connections

    def answer(self, place: int = 0, prediction: float = 0.5) -> None:
        """Have a request answered, by its place among those that were asked."""
        self.client.answer(place, prediction)
        self.here.look()

    def fail(self, error: Exception, place: int = 0) -> None:
        """Have a request fail."""
        self.client.fail(place, error)
        self.here.look()

    def counted(self, family: str, *labels: str) -> int:
        """How many were counted in the series of the family whose last labels are these."""
        return sum(
            int(sum(values[:SECONDS]))
            for (name, *others), values in read(self.log.memory)
            if name == family and tuple(others[len(others) - len(labels) :]) == labels
        )


@pytest.fixture
def runners(log: Log) -> Iterator[Runners]:
    client = FakeClient()
    with served(log, {"1": client, "2": constant(CHURN, 2.0)}, max_pipelined=5) as here:
        yield Runners(here, client, log)


@pytest.fixture(params=[TARGET, TARGET + b"?x=1"], ids=["fast lane", "ordinary road"])
def target(request: pytest.FixtureRequest) -> bytes:
    """Where either road is asked for a prediction."""
    asked: bytes = request.param
    return asked


def named(name: str, request: bytes) -> bytes:
    return request.replace(b"\r\n\r\n", b"\r\nX-Request-ID: %b\r\n\r\n" % name.encode(), 1)


def replies(connection: Connection) -> list[str]:
    """The statuses of all replies so far, with the codes of problems."""
    found = re.findall(rb'HTTP/1\.1 (\d+) |"code":"(\w+)","request_id"', connection.transport.written)
    statuses: list[str] = []
    for status, code in found:
        if status:
            statuses.append(status.decode())
        else:
            statuses[-1] += f" {code.decode()}"
    return statuses


def ids(connection: Connection) -> list[str]:
    return re.findall(r"x-request-id: (\S+)", connection.transport.written.decode())


def body(connection: Connection) -> Any:
    """That of the only reply."""
    return json.loads(connection.transport.written.partition(b"\r\n\r\n")[2])


# Replies


def test_a_reply_is_given_when_it_is_there(runners: Runners, target: bytes) -> None:
    [connection] = runners.waiting(asking(target=target))
    assert replies(connection) == []

    runners.answer()

    assert replies(connection) == [OK]
    assert body(connection) == {"prediction": 0.5, "status": "success", "model": "churn", "version": "1"}
    assert runners.counted(REQUEST, "churn", "1", "success", "200") == 1


def test_rows_get_a_prediction_each(runners: Runners, target: bytes) -> None:
    [connection] = runners.waiting(asking(b"[%b,%b]" % (ROW, ROW), target=target))
    runners.answer()

    assert runners.client.asked == [[(30, "June"), (30, "June")]]
    assert body(connection)["predictions"] == [0.5, 0.5]


def test_both_roads_write_the_same(runners: Runners) -> None:
    written = []
    for place, request in enumerate((LATER, ROAD)):
        [connection] = runners.waiting(named("mine", request))
        runners.answer(place)
        written.append(connection.transport.written)

    assert written[0] == written[1]


def test_others_are_answered_meanwhile(runners: Runners) -> None:
    waits, _ = runners.waiting(LATER, LATER)
    [quick] = runners.waiting(HEALTH)
    assert replies(quick) == [OK]

    runners.answer(1)
    assert replies(waits) == []


def test_a_head_that_is_known_has_replies_that_come_later(runners: Runners) -> None:
    connection = runners.here.connect()
    for place in range(3):
        connection.receive(LATER)
        assert list(runners.here.lane.known_heads) == [LATER.removesuffix(ROW)]
        assert runners.here.gate.held == len(ROW)
        runners.answer(place, place)

    assert replies(connection) == [OK] * 3
    assert re.findall(rb'"prediction":(\d)', connection.transport.written) == [b"0", b"1", b"2"]


def test_the_time_until_the_outputs_are_there_is_that_of_their_stage(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, client = Clock(monkeypatch), FakeClient()
    with served(log, {"1": client}) as here:
        runners = Runners(here, client, log)
        for place in range(16):
            runners.waiting(LATER)
            clock.now += 5
            runners.answer(place)

    path = "/models/{name}/predict"
    seconds = {key[-1]: values[SECONDS] for key, values in read(log.memory) if key[:3] == (STAGE, path, "churn")}
    assert seconds == {"read": 0, "score": 5, "write": 0}


def test_how_long_it_takes_elsewhere_does_not_make_a_model_one_that_waits_here(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, client = Clock(monkeypatch), FakeClient()
    with served(log, {"1": client}) as here:
        runners = Runners(here, client, log)
        for place, request in enumerate((LATER, ROAD)):
            [connection] = runners.waiting(request)
            clock.now += 5
            runners.answer(place)
            assert replies(connection) == [OK]

        assert here.lane.routes[b"POST", TARGET].is_quick
        assert runners.counted(QUEUE_WAIT, "churn", "1") == 0


# One connection


def test_replies_keep_the_order_of_their_requests(runners: Runners) -> None:
    requests = (LATER, HEALTH, LATER, MISSING, ROAD)
    [connection] = runners.waiting(b"".join(named(str(i), request) for i, request in enumerate(requests)))
    assert replies(connection) == []
    runners.answer(0)
    assert replies(connection) == [OK, OK]
    runners.answer(1)
    assert replies(connection) == [OK, OK, OK, NOT_FOUND]
    runners.answer(2)

    assert replies(connection) == [OK, OK, OK, NOT_FOUND, OK]
    assert ids(connection) == list("01234")


@given(
    messages=st.lists(st.sampled_from([LATER, ROAD, HEALTH, MISSING]), max_size=20),
    sizes=st.lists(st.integers(1, 1000), max_size=20),
    answered=st.lists(st.booleans(), min_size=21, max_size=21),
)
def test_every_request_is_answered_once_and_in_order_however_it_arrives(
    quiet: Runners, messages: list[bytes], sizes: list[int], answered: list[bool]
) -> None:
    sent = b"".join(named(str(i), message) for i, message in enumerate(messages))
    cuts = [0, *(at for at in accumulate(sizes) if at < len(sent)), len(sent)]
    connection = quiet.here.connect()

    def answer_all() -> None:
        for place, future in enumerate(quiet.client.futures):
            if not future.done():
                quiet.answer(place)

    for (start, end), answer in zip(pairwise(cuts), answered, strict=False):
        connection.receive(sent[start:end])
        if answer:
            answer_all()
    while len(ids(connection)) < len(messages):
        answer_all()
        quiet.here.look()

    assert ids(connection) == [str(i) for i in range(len(messages))]
    assert quiet.here.gate.held == 0
    assert connection.feed(HEALTH).startswith(b"HTTP/1.1 200 ")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runners]:
    """The application for many examples."""
    log = Log(tmp_path_factory.mktemp("later") / "log")
    client = FakeClient()
    with served(log, {"1": client}, max_pipelined=5, log_requests="none") as here:
        yield Runners(here, client, log)
    log.close()


def test_a_malformed_request_behind_one_is_refused_after_its_reply(runners: Runners) -> None:
    [connection] = runners.waiting(LATER + b"\0")
    assert replies(connection) == []
    runners.answer()

    assert replies(connection) == [OK, "400 bad_request"]


def test_a_client_that_has_said_its_last_gets_its_reply(runners: Runners) -> None:
    [connection] = runners.waiting(LATER)
    assert connection.protocol.eof_received()
    runners.answer()

    assert replies(connection) == [OK]
    assert connection.transport.closing


def test_the_last_request_of_a_connection_is_the_last(runners: Runners) -> None:
    [connection] = runners.waiting(LAST + LATER)
    runners.answer()

    assert replies(connection) == [OK]
    assert b"connection: close" in connection.transport.written
    assert connection.transport.closing
    assert len(runners.client.asked) == 1


def test_a_reply_that_nobody_reads_holds_up_the_requests_behind_it(runners: Runners) -> None:
    [connection] = runners.waiting(LATER + LATER)
    connection.protocol.pause_writing()
    runners.answer()
    assert replies(connection) == [OK]
    assert len(runners.client.asked) == 1

    runners.here.loop.call_soon(connection.protocol.resume_writing)
    runners.here.look()
    runners.answer(1)
    assert replies(connection) == [OK, OK]


def test_a_connection_whose_reply_is_due_is_not_at_rest(runners: Runners) -> None:
    [connection] = runners.waiting(LATER)
    connection.protocol.sweep(perf_counter() + LONG)
    assert not connection.transport.closing

    runners.answer()
    connection.protocol.sweep(perf_counter() + 76)
    assert connection.transport.closing


# Deadlines


def test_a_reply_that_is_not_there_by_the_deadline_is_late_and_its_rows_are_taken_back(
    runners: Runners, target: bytes
) -> None:
    [connection] = runners.waiting(asking(target=target, more=b"X-Request-Timeout-Ms: 20\r\n"))
    connection.settle()
    runners.here.look()

    assert replies(connection) == [LATE]
    assert runners.client.futures[0].cancelled()
    assert runners.counted(EXPIRED) == 1
    assert runners.counted(REQUEST, "504") == 1


def test_a_request_behind_one_that_is_late_is_answered(runners: Runners) -> None:
    [connection] = runners.waiting(HASTY + HEALTH + LATER)
    while not replies(connection):
        runners.here.look()
    runners.answer(1)

    assert replies(connection) == [LATE, OK, OK]


def test_a_request_whose_deadline_passed_behind_another_is_not_asked_for(runners: Runners) -> None:
    [connection] = runners.waiting(HASTY + HASTY)
    connection.settle()

    assert replies(connection) == [LATE, LATE]
    assert len(runners.client.asked) == 1


# The end


def test_a_client_that_goes_away_takes_its_rows_back_and_is_counted(runners: Runners, target: bytes) -> None:
    [connection] = runners.waiting(asking(target=target))
    runners.here.look()
    connection.transport.closing = True
    connection.protocol.connection_lost(ConnectionResetError())
    runners.here.look()

    assert runners.client.futures[0].cancelled()
    assert connection.transport.written == b""
    assert runners.counted(ABANDONED) == 1
    assert runners.counted(REQUEST) == 0
    assert runners.here.gate.held == 0


def test_a_client_that_goes_away_takes_back_what_waited_behind_as_well(runners: Runners) -> None:
    [connection] = runners.waiting(LATER + LATER)
    connection.transport.closing = True
    connection.protocol.connection_lost(ConnectionResetError())
    assert runners.here.gate.held == 0
    runners.here.look()

    assert runners.client.futures[0].cancelled()
    assert len(runners.client.asked) == 1
    assert runners.counted(ABANDONED) == 2
    assert runners.counted(REQUEST) == 0


def test_a_reply_that_comes_in_the_moment_in_which_its_client_goes_away_is_not_given(runners: Runners) -> None:
    [connection] = runners.waiting(LATER)

    async def answer_and_go() -> None:
        runners.client.answer(0, 0.5)
        await asyncio.sleep(0)
        connection.protocol.connection_lost(None)

    runners.here.loop.run_until_complete(answer_and_go())
    runners.here.look()

    assert connection.transport.written == b""
    assert runners.counted(ABANDONED) == 1
    assert runners.counted(REQUEST) == 0


def test_what_is_due_when_the_gate_drains_is_given_and_ends_the_connection(runners: Runners) -> None:
    [connection] = runners.waiting(LATER)
    runners.here.gate.drain()
    assert not connection.transport.closing
    runners.answer()

    assert replies(connection) == [OK]
    assert b"\r\nconnection: close\r\n" in connection.transport.written
    assert connection.transport.closing


def test_all_that_was_sent_ahead_when_the_gate_drains_is_answered(runners: Runners) -> None:
    [connection] = runners.waiting(LATER + LATER)
    runners.here.gate.drain()
    runners.answer(0)
    runners.answer(1)

    assert replies(connection) == [OK, OK]
    assert connection.transport.written.count(b"\r\nconnection: close\r\n") == 1
    assert connection.transport.closing


# Memory


def test_a_body_whose_reply_is_due_is_held(runners: Runners) -> None:
    [connection] = runners.waiting(LATER + LATER)
    assert runners.here.gate.held == 2 * len(ROW)
    runners.answer(0)
    assert runners.here.gate.held == len(ROW)
    runners.answer(1)

    assert runners.here.gate.held == 0
    assert connection.transport.reading


def test_what_is_sent_ahead_while_a_reply_is_due_on_the_ordinary_road_is_held_and_not_read_on(
    runners: Runners,
) -> None:
    [connection] = runners.waiting(ROAD + MISSING * 5)
    for count in range(1, 4):
        connection.protocol._flow.resume_reading()  # as uvicorn does when it is asked whether the client is there
        connection.receive(MISSING)
        assert runners.here.gate.held == count * len(MISSING)
        assert not connection.transport.reading
    runners.answer()
    connection.settle()

    assert replies(connection) == [OK, *[NOT_FOUND] * 8]


def test_when_memory_is_short_what_is_due_is_refused_and_its_rows_are_taken_back(runners: Runners) -> None:
    [connection] = runners.waiting(named("a", LATER) + named("b", LATER))
    connection.protocol.shed()
    runners.here.look()

    assert replies(connection) == [OVERLOADED]
    assert ids(connection) == ["a"]
    assert runners.client.futures[0].cancelled()
    assert runners.here.gate.held == 0
    assert runners.counted(SHED, "buffers") == 1


# Refusals and failures


def test_a_request_that_would_wait_too_long_is_refused_before_its_body_is_read(runners: Runners, target: bytes) -> None:
    runners.client.refusal = Overloaded()
    [connection] = runners.waiting(asking(b"no JSON", target=target))
    connection.settle()

    assert replies(connection) == [OVERLOADED]
    assert re.search(rb"\r\nretry-after: [123]\r\n", connection.transport.written)
    assert runners.counted(SHED, "queue") == 1
    assert not connection.transport.closing


def test_admission_is_told_how_much_time_is_left(runners: Runners, target: bytes) -> None:
    runners.client.refusal = Overloaded()
    [connection] = runners.waiting(asking(target=target, more=b"X-Request-Timeout-Ms: 5000\r\n"))
    connection.settle()

    [left] = runners.client.times_left
    assert 0 < left < 5


def test_a_model_that_is_out_of_service_says_why(runners: Runners, target: bytes) -> None:
    runners.client.refusal = ModelUnavailable("The model's process ended five times in a minute: out of memory")
    [connection] = runners.waiting(asking(target=target))
    connection.settle()

    assert replies(connection) == ["503 model_unavailable"]
    assert body(connection)["detail"].endswith("out of memory")
    assert re.search(rb"\r\nretry-after: [123]\r\n", connection.transport.written)
    assert runners.counted(SHED, "queue") == 0


FAILURES: dict[str, tuple[Exception, str]] = {
    "its process ended": (ModelCrashed(), "500 model_crashed"),
    "it is out of service": (ModelUnavailable("the reason"), "503 model_unavailable"),
    "it raised": (ZeroDivisionError("the needle"), "500 inference_failed"),
    "it timed out by itself": (TimeoutError("the needle"), "500 inference_failed"),
    "a number is too large": (FeatureTooLarge(most="7", column="age"), "422 feature_too_large"),
}


@pytest.mark.parametrize(("error", "code"), FAILURES.values(), ids=FAILURES)
def test_a_failure_that_comes_later_is_told(runners: Runners, target: bytes, error: Exception, code: str) -> None:
    [connection] = runners.waiting(asking(target=target))
    runners.fail(error)

    assert replies(connection) == [code]
    assert b"needle" not in connection.transport.written
    assert not connection.transport.closing


@pytest.mark.parametrize("error", [ModelCrashed(), ZeroDivisionError("the needle")])
def test_a_failure_that_is_no_clients_fault_is_logged_with_its_cause(runners: Runners, error: Exception) -> None:
    runners.waiting(named("mine", LATER))
    runners.fail(error)

    [line] = runners.log.written("request_failed")
    assert line["request_id"] == "mine"
    assert type(error).__name__ in line["exception"]


def test_a_row_that_is_refused_later_is_told_by_its_place(runners: Runners, target: bytes) -> None:
    [connection] = runners.waiting(asking(b"[%b,%b]" % (ROW, ROW), target=target))
    runners.fail(FeatureTooLarge(most="7", column="age", row=1))

    [error] = body(connection)["errors"]
    assert error["loc"] == ["body", 1, "age"]


def test_a_prediction_that_is_not_finite_is_refused_with_its_row(runners: Runners) -> None:
    [connection] = runners.waiting(LATER)
    runners.answer(0, float("inf"))

    assert replies(connection) == ["422 prediction_not_finite"]


def test_outputs_that_the_signature_does_not_state_are_a_failure_of_the_model(runners: Runners) -> None:
    [connection] = runners.waiting(LATER)
    runners.client.futures[0].set_result(())
    runners.here.look()

    assert replies(connection) == ["500 inference_failed"]


def test_a_reply_that_cannot_be_written_is_an_error_that_nobody_foresaw(log: Log, target: bytes) -> None:
    client = FakeClient(Signature(CHURN.inputs, (Column(name="label", kind=Kind.STRING),)))
    with served(log, {"1": client}) as here:
        runners = Runners(here, client, log)
        [connection] = runners.waiting(asking(target=target))
        client.answer(0, object())
        here.look()

        assert replies(connection) == ["500 internal_error"]
        assert "not JSON serializable" in log.written("request_failed")[0]["exception"]


def test_what_is_due_when_the_event_loop_ends_is_cancelled_without_a_word(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    client = FakeClient()
    with served(log, {"1": client}) as here:
        [connection] = Runners(here, client, log).waiting(LATER)

    assert connection.transport.written == b""
    assert client.futures[0].cancelled()
    assert caplog.messages == []


# Versions


def test_a_request_is_answered_by_the_version_that_it_began_with(runners: Runners, target: bytes) -> None:
    [connection] = runners.waiting(asking(target=target))
    runners.here.activate("2")
    assert runners.client.retired
    runners.answer()

    assert body(connection)["version"] == "1"
    assert b'"version":"2"' in connection.feed(LATER)


def test_a_version_that_never_became_live_is_asked_no_more(log: Log) -> None:
    live, other = FakeClient(), FakeClient()
    with served(log, {"1": live, "2": other}) as here:
        here.models.drop(here.models.open("churn", here.placed["2"]))

    assert (live.retired, other.retired) == (False, True)


# Large requests to a model that is called here, in slices


@dataclass
class Sliced:
    """The application with a model that is called here, a row at a time, and takes 5 ms by the clock of the test."""

    here: Served
    model: FakeModel
    clock: Clock

    @property
    def route(self) -> CompiledRoute:
        return self.here.lane.routes[b"POST", TARGET]

    def waiting(self, request: bytes) -> Connection:
        """A connection with this request."""
        connection = self.here.connect()
        connection.receive(request)
        return connection


@pytest.fixture
def sliced(log: Log, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sliced]:
    clock = Clock(monkeypatch)

    def predict(batch: Batch) -> Outputs:
        clock.now += 0.005
        return outputs(CHURN, [row[0] / 4 for row in batch.rows])

    model = FakeModel(CHURN, predict)
    with served(log, {"1": model}, slice_rows=1) as here:
        yield Sliced(here, model, clock)


LARGE = asking(b"[%b]" % b",".join(b'{"age":%d,"signup_month":"June"}' % age for age in range(20)))


def on(target: bytes, request: bytes) -> bytes:
    """The same on another road."""
    return request.replace(TARGET, target)


@pytest.mark.parametrize("mean", [0.0, 0.005], ids=["quick", "slow"])
def test_other_requests_are_answered_between_the_slices_of_a_large_one(sliced: Sliced, mean: float) -> None:
    sliced.route.service_time.mean = mean
    large = sliced.waiting(LARGE)
    sliced.here.look(5)
    other = sliced.waiting(HEALTH)
    assert (replies(large), replies(other)) == ([], [OK])
    assert 0 < len(sliced.model.seen) < 20
    large.settle()

    assert body(large)["predictions"] == [age / 4 for age in range(20)]


def test_one_slow_request_has_the_turn_until_its_last_slice(sliced: Sliced) -> None:
    sliced.route.service_time.mean = 0.005
    large, small = sliced.waiting(LARGE), sliced.waiting(LATER)
    large.settle()
    small.settle()

    assert [batch.rows[0][0] for batch in sliced.model.seen] == [*range(20), 30]


def test_the_time_of_all_slices_is_that_of_the_request(sliced: Sliced) -> None:
    sliced.waiting(LARGE).settle()
    mean = ServiceTime()
    mean.observe(0.1)

    assert sliced.route.service_time.mean == mean.mean > 0


def test_the_rest_of_a_large_request_whose_client_has_gone_is_not_called(sliced: Sliced, target: bytes) -> None:
    sliced.route.service_time.mean = 0.005
    large, small = sliced.waiting(on(target, LARGE)), sliced.waiting(LATER)
    sliced.here.look()
    large.transport.closing = True
    large.protocol.connection_lost(None)
    assert sliced.model.seen
    small.settle()

    assert len(sliced.model.seen) < 20
    assert replies(small) == [OK]
    assert sliced.here.lane.queue._admission.estimated_wait == 0

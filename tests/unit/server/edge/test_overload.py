"""A model that takes its time, behind the gate: who waits, who is refused, and in what order they are answered.

The clock is the tests': the model takes 5 ms, and nothing else takes any time.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract import GOOD
from tests.unit.log import Log
from tests.unit.server.behind_gate import Clock, Connection, Served, served
from tests.waiting import until
from weighbridge.adapters.http.fast_route import CompiledRoute
from weighbridge.adapters.http.health import health
from weighbridge.adapters.http.prediction import predict
from weighbridge.adapters.http.problems import Reply
from weighbridge.adapters.metrics import ABANDONED, EXPIRED, QUEUE_WAIT, REQUEST, SHED
from weighbridge.adapters.series import SECONDS, read

TAKES = 0.005
MAX_WAIT_MS = 20
LANE = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(GOOD)
SLOW = LANE + b"\r\n" + GOOD
HASTY = LANE + b"X-Request-Timeout-Ms: 12\r\n\r\n" + GOOD
ROAD = SLOW.replace(b"/predict", b"/predict?y=1")
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
MISSING = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
OVERLOADED, NOT_FOUND, LATE = "503 overloaded", "404 not_found", "504 deadline_exceeded"
MALFORMED, OK = "400 bad_request", "200"
LONG = 1000.0


class SlowModel:
    """Predicts in 5 ms by the clock of the tests, and knows whom it was asked by."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[str] = []
        self.takes = TAKES
        self.fails = False

    def __call__(self, _headers: object, _body: object, request_id: str, _deadline: float) -> Reply:
        self.asked.append(request_id)
        self.clock.now += self.takes
        if self.fails:
            raise ZeroDivisionError
        return 200, b"application/json", b"{}"


class Overloaded:
    """The application with a slow model."""

    def __init__(self, here: Served, model: SlowModel, log: Log) -> None:
        self.here = here
        self.model = model
        self.clock = model.clock
        self.gate = here.gate
        self._log = log
        target = (b"POST", b"/predict")
        before = here.lane.routes[target]
        self.route = CompiledRoute(model, before.metrics, before.model, before.waits)
        self.route.service_time.mean = TAKES
        here.lane.routes[target] = here.app.state.calls[predict] = self.route

    def waiting(self, *requests: bytes) -> list[Connection]:
        """Connections, each with one of the requests; nothing of the queue has been served."""
        connections = [self.here.connect() for _ in requests]
        for connection, request in zip(connections, requests, strict=True):
            connection.protocol.data_received(request)
        return connections

    def counted(self, family: str, *labels: str) -> int:
        """How many were counted in the series of the family whose last labels are these."""
        return sum(int(sum(values[:SECONDS])) for values in self._series(family, labels))

    def seconds(self, family: str, *labels: str) -> float:
        """How many seconds were counted in them."""
        return sum(values[SECONDS] for values in self._series(family, labels))

    def _series(self, family: str, labels: tuple[str, ...]) -> Iterator[list[float]]:
        for (name, *others), values in read(self._log.memory):
            if name == family and tuple(others[len(others) - len(labels) :]) == labels:
                yield values


@contextmanager
def overload(log: Log, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Overloaded]:
    """The application with a slow model, from start to end."""
    clock = Clock(monkeypatch)
    with served(log, **settings) as here:
        yield Overloaded(here, SlowModel(clock), log)


@pytest.fixture
def overloaded(log: Log, monkeypatch: pytest.MonkeyPatch) -> Iterator[Overloaded]:
    with overload(log, monkeypatch, max_wait_ms=MAX_WAIT_MS, max_pipelined=5, deadline_ms=1000) as started:
        yield started


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overloaded]:
    """The same for many examples."""
    log = Log(tmp_path_factory.mktemp("overload") / "log")
    with (
        pytest.MonkeyPatch.context() as patch,
        overload(log, patch, max_pipelined=5, log_requests="none") as started,
    ):
        yield started
    log.close()


def named(name: str, request: bytes = LANE + b"\r\n" + GOOD) -> bytes:
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


# The queue


def test_a_slow_request_waits_until_all_that_has_arrived_is_read(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW)
    assert replies(connection) == []

    connection.settle()
    assert replies(connection) == [OK]


def test_slow_requests_are_served_in_the_order_in_which_they_came(overloaded: Overloaded) -> None:
    connections = overloaded.waiting(*(named(name) for name in "abc"))
    connections[0].settle()

    assert overloaded.model.asked == ["a", "b", "c"]
    assert [ids(connection) for connection in connections] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("target", [b"/health", b"/livez", b"/readyz", b"/"])
def test_probes_are_answered_at_once_while_others_wait_and_are_refused(overloaded: Overloaded, target: bytes) -> None:
    overloaded.here.lane.routes[b"GET", target].service_time.mean = LONG  # whatever may have been measured
    refused = overloaded.waiting(*[SLOW] * 10)[-1]
    [probe] = overloaded.waiting(HEALTH.replace(b"/health", target))

    assert replies(refused) == [OVERLOADED]
    assert replies(probe) == [OK]


def test_a_quick_model_is_answered_at_once_while_others_wait(overloaded: Overloaded) -> None:
    body = b'{"instances":[[1,1,1,1]]}'
    batch = LANE.replace(b"/predict", b"/predict/batch").replace(b": %d" % len(GOOD), b": %d" % len(body))
    overloaded.waiting(SLOW)
    [quick] = overloaded.waiting(batch + b"\r\n" + body)

    assert replies(quick) == [OK]


def test_a_model_that_becomes_slow_is_queued_and_one_that_becomes_quick_is_not(overloaded: Overloaded) -> None:
    overloaded.route.service_time.mean = 0.0
    connection = overloaded.here.connect()
    at_once: list[bool] = []
    for _ in range(20):
        connection.protocol.data_received(SLOW)
        at_once.append(len(replies(connection)) == len(at_once) + 1)
        connection.settle()
    assert at_once == sorted(at_once, reverse=True)
    assert set(at_once) == {True, False}

    overloaded.model.takes = 0.0
    for _ in range(100):
        connection.feed(SLOW)
    connection.protocol.data_received(SLOW)
    assert replies(connection) == [OK] * 121


def test_how_long_a_request_waited_is_counted(overloaded: Overloaded) -> None:
    overloaded.waiting(SLOW, SLOW, SLOW)[0].settle()

    assert overloaded.counted(QUEUE_WAIT, "default", "embedded") == 3
    assert overloaded.seconds(QUEUE_WAIT, "default", "embedded") == pytest.approx(3 * TAKES)


def test_a_reply_counts_from_when_its_request_was_whole(overloaded: Overloaded) -> None:
    overloaded.waiting(SLOW, SLOW)[0].settle()

    assert overloaded.seconds(REQUEST, "200") == pytest.approx(3 * TAKES)


def test_a_model_that_fails_in_its_turn_holds_up_nobody(overloaded: Overloaded) -> None:
    connections = overloaded.waiting(SLOW, SLOW)
    overloaded.model.fails = True
    connections[0].settle()

    assert [replies(connection) for connection in connections] == [["500 internal_error"]] * 2


# Refusals


def test_a_request_that_would_wait_too_long_is_refused_at_once_and_its_connection_goes_on(
    overloaded: Overloaded,
) -> None:
    connections = overloaded.waiting(*[SLOW] * 6)
    assert [replies(connection) for connection in connections] == [[]] * 5 + [[OVERLOADED]]
    refused = connections[-1]
    assert re.search(rb"\r\nretry-after: [123]\r\n", refused.transport.written)
    assert b"connection: close" not in refused.transport.written

    refused.settle()
    refused.feed(SLOW)
    assert replies(refused) == [OVERLOADED, OK]


def test_refused_clients_are_not_all_told_to_come_back_at_the_same_time(overloaded: Overloaded) -> None:
    refused = overloaded.waiting(*[SLOW] * 8)[5:]

    assert {re.findall(rb"retry-after: (\d)", client.transport.written)[0] for client in refused} == {b"1", b"2", b"3"}


def test_a_request_with_less_time_is_refused_sooner(overloaded: Overloaded) -> None:
    connections = overloaded.waiting(HASTY, HASTY, HASTY)

    assert [replies(connection) for connection in connections] == [[], [], [OVERLOADED]]


def test_the_time_that_a_request_took_to_arrive_is_gone(overloaded: Overloaded) -> None:
    overloaded.waiting(SLOW)
    [late] = overloaded.waiting(HASTY[:-1])
    overloaded.clock.now += 0.003
    late.protocol.data_received(HASTY[-1:])

    assert replies(late) == [OVERLOADED]


def test_every_refusal_is_counted(overloaded: Overloaded) -> None:
    overloaded.waiting(*[SLOW] * 15)

    assert overloaded.counted(SHED, "queue") == 10
    assert overloaded.counted(REQUEST, "503") == 10


@pytest.mark.parametrize(("policy", "counts"), [("failed", [1, 9]), ("all", [1, 9]), ("none", [])])
def test_the_log_has_one_line_a_second_of_refusals(
    log: Log, monkeypatch: pytest.MonkeyPatch, policy: str, counts: list[int]
) -> None:
    with overload(log, monkeypatch, max_wait_ms=MAX_WAIT_MS, log_requests=policy) as overloaded:
        overloaded.waiting(*[SLOW] * 14)
        overloaded.clock.now += 1.1
        overloaded.waiting(SLOW)

    assert [(line["level"], line["count"]) for line in log.of("requests_turned_away")] == [
        ("warning", count) for count in counts
    ]
    assert not any(line["status"] == 503 for line in log.of("request"))


def test_what_is_known_of_a_head_holds_while_its_requests_wait_or_are_refused(overloaded: Overloaded) -> None:
    queued, *_, refused = overloaded.waiting(*[SLOW] * 6)
    assert list(overloaded.here.lane.known_heads) == [LANE + b"\r\n"]

    refused.protocol.data_received(SLOW)
    queued.protocol.data_received(SLOW)
    queued.settle()
    assert replies(refused) == [OVERLOADED] * 2
    assert replies(queued) == [OK] * 2


# The ordinary road


def test_the_ordinary_road_refuses_what_would_wait_too_long_and_its_connections_go_on(overloaded: Overloaded) -> None:
    connections = overloaded.waiting(*[ROAD] * 8)
    for connection in connections:
        connection.settle()

    assert [replies(connection) for connection in connections] == [[OK]] * 5 + [[OVERLOADED]] * 3
    refused = connections[5:]
    assert all(re.search(rb"\r\nretry-after: [123]\r\n", client.transport.written) for client in refused)
    assert not any(client.transport.closing for client in refused)
    assert overloaded.counted(SHED, "queue") == 3
    assert overloaded.counted(REQUEST, "503") == 3


def test_both_roads_refuse_by_the_same_words(overloaded: Overloaded) -> None:
    *_, lane = overloaded.waiting(*[named("mine")] * 6)
    lane.settle()
    *_, road = overloaded.waiting(*[named("mine", ROAD)] * 6)
    road.settle()

    assert road.transport.written.partition(b"\r\n\r\n")[2] == lane.transport.written.partition(b"\r\n\r\n")[2]
    assert replies(road) == replies(lane) == [OVERLOADED]


def test_the_log_has_one_line_of_refusals_on_the_ordinary_road(log: Log, overloaded: Overloaded) -> None:
    for connection in overloaded.waiting(*[ROAD] * 8):
        connection.settle()
    overloaded.clock.now += 1.1
    for connection in overloaded.waiting(*[ROAD] * 6):
        connection.settle()

    until(lambda: len(log.of("requests_turned_away")) > 1)
    assert [line["count"] for line in log.of("requests_turned_away")] == [1, 3]
    assert not log.of("request")


def test_what_waits_on_the_fast_lane_counts_for_the_ordinary_road(overloaded: Overloaded) -> None:
    overloaded.waiting(*[SLOW] * 3)
    [road] = overloaded.waiting(HASTY.replace(b"/predict", b"/predict?y=1"))
    road.settle()

    assert replies(road) == [OVERLOADED]


def test_what_waits_on_the_ordinary_road_counts_for_the_fast_lane(overloaded: Overloaded) -> None:
    overloaded.waiting(*[ROAD] * 5)
    overloaded.here.look(1)
    [lane] = overloaded.waiting(HASTY)

    assert replies(lane) == [OVERLOADED]


def test_how_long_a_request_waited_on_the_ordinary_road_is_counted(overloaded: Overloaded) -> None:
    for connection in overloaded.waiting(ROAD, ROAD, ROAD):
        connection.settle()

    assert overloaded.counted(QUEUE_WAIT, "default", "embedded") == 3
    assert overloaded.seconds(QUEUE_WAIT, "default", "embedded") == pytest.approx(3 * TAKES)


def test_a_model_that_only_the_ordinary_road_asks_is_found_to_be_slow(overloaded: Overloaded) -> None:
    overloaded.route.service_time.mean = 0.0
    connection = overloaded.here.connect()
    for _ in range(20):
        connection.feed(ROAD)
    assert overloaded.route.service_time.mean == pytest.approx(TAKES, rel=0.6)

    for client in overloaded.waiting(*[ROAD] * 12):
        client.settle()
    assert overloaded.counted(SHED, "queue") > 0


def test_probes_on_the_ordinary_road_never_wait(overloaded: Overloaded) -> None:
    overloaded.here.app.state.calls[health].service_time.mean = LONG
    overloaded.waiting(*[SLOW] * 5)
    [probe] = overloaded.waiting(HEALTH.replace(b"/health", b"/health?y=1"))
    probe.settle()

    assert replies(probe) == [OK]


def test_a_model_that_fails_in_its_turn_on_the_ordinary_road_holds_up_nobody(overloaded: Overloaded) -> None:
    connections = overloaded.waiting(ROAD, ROAD, SLOW)
    overloaded.model.fails = True
    for connection in connections:
        connection.settle()

    assert [replies(connection) for connection in connections] == [["500 internal_error"]] * 3


# Deadlines


def test_what_has_not_begun_by_its_deadline_never_begins(overloaded: Overloaded) -> None:
    connections = overloaded.waiting(HASTY, HASTY)
    overloaded.clock.now += 0.013
    connections[0].settle()

    assert [replies(connection) for connection in connections] == [[LATE]] * 2
    assert overloaded.model.asked == []
    assert overloaded.counted(EXPIRED) == 2
    assert overloaded.counted(REQUEST, "504") == 2


@pytest.mark.parametrize("mean", [0.0, TAKES], ids=["quick", "slow"])
def test_what_arrives_after_its_deadline_never_begins(overloaded: Overloaded, mean: float) -> None:
    overloaded.route.service_time.mean = mean
    [connection] = overloaded.waiting(HASTY[:20])
    overloaded.clock.now += 0.013
    connection.feed(HASTY[20:])

    assert replies(connection) == [LATE]
    assert overloaded.model.asked == []


def test_what_arrives_after_its_deadline_never_begins_on_the_ordinary_road_either(overloaded: Overloaded) -> None:
    hasty = HASTY.replace(b"/predict", b"/nothing")
    [connection] = overloaded.waiting(hasty[:20])
    overloaded.clock.now += 0.013
    connection.feed(hasty[20:])

    assert replies(connection) == [LATE]


def test_the_time_before_the_first_byte_does_not_count(overloaded: Overloaded) -> None:
    connection = overloaded.here.connect()
    overloaded.clock.now += 0.013
    connection.feed(HASTY[:20], HASTY[20:])

    assert replies(connection) == [OK]


@pytest.mark.parametrize("mean", [0.0, TAKES], ids=["at once", "in its turn"])
def test_a_reply_that_is_ready_only_after_the_deadline_is_not_given(overloaded: Overloaded, mean: float) -> None:
    overloaded.route.service_time.mean = mean
    overloaded.model.takes = 0.013
    connection = overloaded.here.connect()
    connection.feed(HASTY)
    assert replies(connection) == [LATE]
    assert overloaded.counted(EXPIRED) == 1

    overloaded.model.takes = TAKES
    connection.feed(HASTY)
    assert replies(connection) == [LATE, OK]


def test_a_client_cannot_ask_for_more_time_than_the_service_gives(overloaded: Overloaded) -> None:
    overloaded.model.takes = 1.1
    connection = overloaded.here.connect()
    connection.feed(HASTY.replace(b": 12\r\n", b": 999999999\r\n"))

    assert replies(connection) == [LATE]


# One connection


def test_replies_keep_the_order_of_their_requests(overloaded: Overloaded) -> None:
    connection = overloaded.here.connect()
    requests = (SLOW, HEALTH, SLOW, MISSING, SLOW, HEALTH)
    connection.protocol.data_received(b"".join(named(str(i), request) for i, request in enumerate(requests)))
    assert replies(connection) == []
    connection.settle()

    assert replies(connection) == [OK, OK, OK, NOT_FOUND, OK, OK]
    assert ids(connection) == [str(i) for i in range(6)]


@given(
    messages=st.lists(st.sampled_from([SLOW, HASTY, HEALTH, MISSING]), max_size=30),
    sizes=st.lists(st.integers(1, 2000), max_size=20),
    settled=st.lists(st.booleans(), min_size=21, max_size=21),
)
def test_every_request_is_answered_once_and_in_order_however_it_arrives(
    quiet: Overloaded, messages: list[bytes], sizes: list[int], settled: list[bool]
) -> None:
    sent = b"".join(named(str(i), message) for i, message in enumerate(messages))
    cuts = [0, *(at for at in accumulate(sizes) if at < len(sent)), len(sent)]
    connection = quiet.here.connect()
    for (start, end), settle in zip(pairwise(cuts), settled, strict=False):
        connection.protocol.data_received(sent[start:end])
        if settle:
            connection.settle()
    connection.settle()

    assert ids(connection) == [str(i) for i in range(len(messages))]
    assert quiet.gate.held == 0
    assert quiet.here.lane.queue._admission.estimated_wait == 0
    assert connection.feed(HEALTH).startswith(b"HTTP/1.1 200 ")


def test_a_request_behind_a_slow_one_waits_for_its_own_turn_behind_the_others(overloaded: Overloaded) -> None:
    first, _ = overloaded.waiting(named("a") + named("b"), named("c"))
    first.settle()

    assert overloaded.model.asked == ["a", "c", "b"]


def test_a_request_behind_a_slow_one_may_be_refused_when_its_turn_comes(overloaded: Overloaded) -> None:
    first, *_ = overloaded.waiting(SLOW + HASTY + HEALTH, *[SLOW] * 4)
    overloaded.here.lane.queue._serve_next()

    assert replies(first) == [OK, OVERLOADED, OK]


def test_only_so_many_requests_wait_on_a_connection_and_then_it_is_read_no_further(overloaded: Overloaded) -> None:
    connection = overloaded.here.connect()
    padded = SLOW.replace(b"\r\n\r\n", b"\r\nNeedle: %b\r\n\r\n" % (b"n" * 4000), 1)
    connection.protocol.data_received(padded * 20)
    assert len(connection.protocol._conversation.requests) == 5
    assert not connection.transport.reading
    connection.settle()

    assert replies(connection) == [OK] * 20
    assert connection.transport.reading


def test_a_connection_with_one_request_in_the_queue_is_read_on_and_with_two_it_is_not(overloaded: Overloaded) -> None:
    connection = overloaded.here.connect()
    connection.protocol.data_received(SLOW)
    assert connection.transport.reading
    connection.protocol.data_received(SLOW)
    assert not connection.transport.reading
    overloaded.here.lane.queue._serve_next()
    assert connection.transport.reading

    connection.settle()
    assert connection.transport.reading
    assert replies(connection) == [OK, OK]


def test_bodies_that_wait_are_held(overloaded: Overloaded) -> None:
    connection = overloaded.here.connect()
    connection.feed(SLOW)  # from now on its head is known
    connection.protocol.data_received(SLOW + SLOW)
    assert overloaded.gate.held == 2 * len(GOOD)
    [known] = overloaded.waiting(SLOW)
    assert overloaded.gate.held == 3 * len(GOOD)

    overloaded.here.lane.queue._serve_next()
    assert overloaded.gate.held == 2 * len(GOOD)
    known.settle()
    assert overloaded.gate.held == 0


def test_a_client_that_goes_away_is_not_served_and_counts_no_longer(overloaded: Overloaded) -> None:
    first, second = overloaded.waiting(named("a") + named("b"), named("c"))
    first.transport.closing = True
    first.protocol.connection_lost(ConnectionResetError())
    assert overloaded.gate.held == len(GOOD)
    assert overloaded.here.lane.queue._admission.estimated_wait == TAKES
    second.settle()

    assert overloaded.model.asked == ["c"]
    assert overloaded.counted(ABANDONED) == 2


def test_a_client_that_is_cut_off_in_the_moment_of_its_turn_is_not_served(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW)
    connection.transport.abort()
    connection.settle()
    connection.protocol.connection_lost(None)

    assert overloaded.model.asked == []
    assert overloaded.counted(ABANDONED) == 1
    assert overloaded.here.lane.queue._admission.estimated_wait == 0


def test_a_client_that_has_said_its_last_gets_every_reply(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW + MISSING + SLOW)
    assert connection.protocol.eof_received()
    connection.settle()

    assert replies(connection) == [OK, NOT_FOUND, OK]
    assert connection.transport.closing


@pytest.mark.parametrize("requests", [[SLOW], [SLOW, SLOW]])
def test_a_connection_whose_client_has_said_its_last_ends_when_all_is_answered(
    overloaded: Overloaded, requests: list[bytes]
) -> None:
    [connection] = overloaded.waiting(b"".join(requests))
    assert connection.protocol.eof_received()
    connection.settle()

    assert replies(connection) == [OK] * len(requests)
    assert connection.transport.closing


def test_a_malformed_request_behind_slow_ones_is_refused_after_their_replies(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW + SLOW + MISSING + b"\0")
    assert replies(connection) == []
    assert not connection.transport.reading
    connection.settle()

    assert replies(connection) == [OK, OK, NOT_FOUND, MALFORMED]
    assert b"connection: close" in connection.transport.written


def test_the_last_request_of_a_connection_is_the_last(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(LANE + b"Connection: close\r\n\r\n" + GOOD + SLOW + HEALTH + MISSING)
    connection.settle()

    assert replies(connection) == [OK]
    assert b"connection: close" in connection.transport.written
    assert connection.transport.closing
    connection.protocol.connection_lost(None)
    assert overloaded.counted(ABANDONED) == 0


def test_a_body_behind_a_slow_request_is_invited_after_its_reply(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW + LANE + b"Expect: 100-continue\r\n\r\n")
    assert replies(connection) == []
    connection.settle()
    assert replies(connection) == [OK, "100"]

    connection.feed(GOOD)
    assert replies(connection) == [OK, "100", OK]


def test_replies_that_nobody_reads_hold_up_the_requests_behind_them(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW + SLOW + MISSING + HEALTH)
    connection.protocol.pause_writing()
    connection.settle()
    assert replies(connection) == [OK]

    connection.protocol.resume_writing()
    connection.settle()
    assert replies(connection) == [OK, OK, NOT_FOUND, OK]


def test_reading_what_was_unread_does_not_hasten_a_turn(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW)
    connection.protocol.pause_writing()
    connection.protocol.resume_writing()
    assert replies(connection) == []
    assert overloaded.here.lane.queue._admission.estimated_wait == TAKES

    connection.settle()
    assert replies(connection) == [OK]


def test_what_waited_behind_an_unread_reply_is_answered_though_the_client_has_said_its_last(
    overloaded: Overloaded,
) -> None:
    connection = overloaded.here.connect()
    connection.protocol.pause_writing()
    connection.protocol.data_received(SLOW)
    assert connection.protocol.eof_received()
    connection.protocol.resume_writing()
    assert not connection.transport.closing

    connection.settle()
    assert replies(connection) == [OK]
    assert connection.transport.closing


# Time


def test_a_connection_with_a_request_in_the_queue_is_not_at_rest_when_what_it_wrote_is_read(
    overloaded: Overloaded,
) -> None:
    [connection] = overloaded.waiting(SLOW)
    connection.protocol.pause_writing()
    connection.protocol.data_received(b"\r\n")
    connection.protocol.resume_writing()
    connection.protocol.sweep(overloaded.clock.now + LONG)

    assert not connection.transport.closing


def test_a_request_in_the_queue_is_not_too_slow(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW)
    connection.protocol.sweep(overloaded.clock.now + LONG)
    connection.settle()

    assert replies(connection) == [OK]
    assert not connection.transport.closing


def test_a_connection_of_which_one_request_was_answered_and_another_is_in_the_queue_is_not_at_rest(
    overloaded: Overloaded,
) -> None:
    [connection] = overloaded.waiting(SLOW + HEALTH + SLOW)
    overloaded.here.lane.queue._serve_next()
    assert replies(connection) == [OK, OK]
    connection.protocol.sweep(overloaded.clock.now + LONG)

    assert not connection.transport.closing


def test_a_connection_that_was_answered_in_its_turn_is_at_rest(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW)
    connection.settle()
    connection.protocol.sweep(overloaded.clock.now + 74)
    assert not connection.transport.closing

    connection.protocol.sweep(overloaded.clock.now + 76)
    assert connection.transport.closing


def test_half_a_request_behind_a_slow_one_is_refused_in_time_but_after_its_reply(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW + HEALTH[:10])
    connection.protocol.sweep(overloaded.clock.now + LONG)
    assert replies(connection) == []
    connection.settle()

    assert replies(connection) == [OK, "408 request_timeout"]


def test_half_a_request_behind_a_slow_one_is_not_at_rest(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW + SLOW[:10])
    connection.settle()
    connection.feed(SLOW[10:])

    assert replies(connection) == [OK, OK]


# Memory


def test_when_memory_is_short_the_first_that_waits_is_refused_and_the_connection_ends(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(named("a") + named("b") + MISSING + SLOW[:-1])
    connection.protocol.shed()
    connection.settle()

    assert replies(connection) == [OVERLOADED]
    assert ids(connection) == ["a"]
    assert b"connection: close" in connection.transport.written
    assert overloaded.model.asked == []
    assert overloaded.gate.held == 0
    assert overloaded.here.lane.queue._admission.estimated_wait == 0
    assert overloaded.counted(SHED, "buffers") == 1


def test_when_memory_is_short_a_request_whose_head_was_known_is_refused_by_an_id_of_its_own(
    overloaded: Overloaded,
) -> None:
    connection = overloaded.here.connect()
    connection.feed(SLOW)
    connection.feed(named("mine"))
    connection.protocol.data_received(SLOW)
    connection.protocol.shed()

    assert ids(connection)[1:] == ["mine", ids(connection)[2]]
    assert ids(connection)[2] != "mine"


def test_more_bodies_than_there_is_room_for_do_not_wait(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    with overload(log, monkeypatch, max_buffered_bytes=100, max_body_bytes=100) as overloaded:
        first, second, third = overloaded.waiting(SLOW, SLOW[:-1], SLOW * 3)
        second.feed(SLOW[-1:])

    assert [replies(connection) for connection in (first, second, third)] == [[OK], [OK], [OVERLOADED]]


# The end


def test_what_waits_at_the_end_is_answered_and_only_the_last_reply_says_so(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW + HEALTH + SLOW)
    connection.protocol.shutdown()
    connection.settle()

    assert replies(connection) == [OK] * 3
    assert connection.transport.written.count(b"connection: close") == 1
    assert connection.transport.written.rpartition(b"HTTP/1.1")[2].count(b"connection: close") == 1
    assert connection.transport.closing


def test_what_waits_at_the_end_before_the_application_is_answered_too(overloaded: Overloaded) -> None:
    [connection] = overloaded.waiting(SLOW + MISSING)
    connection.protocol.shutdown()
    connection.settle()

    assert replies(connection) == [OK, NOT_FOUND]
    assert connection.transport.written.count(b"connection: close") == 1
    assert connection.transport.closing

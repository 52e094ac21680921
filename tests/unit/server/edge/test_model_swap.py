"""Trained models on both roads: what they answer, and how one version follows another."""

import gc
import json
from collections.abc import Iterator
from weakref import ref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.log import Log
from tests.unit.models import CHURN, FakeModel, constant, outputs
from tests.unit.server.behind_gate import Connection, Served, served
from weighbridge.adapters.http import model_host
from weighbridge.adapters.metrics import REQUEST
from weighbridge.adapters.series import read
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import ModelRefused

ROW = b'{"age":30,"signup_month":"June"}'
LIVE = b"/models/churn/predict"
VERSION_1 = b"/models/churn/versions/1/predict"


def asking(target: bytes = LIVE, body: bytes = ROW, *, line: bytes = b"Content-Type: application/json") -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\nContent-Length: %d\r\n\r\n"
    return head % (target, line, len(body)) + body


def versions(written: bytes) -> list[str]:
    """The versions that the replies name."""
    return [part.partition(b'"')[0].decode() for part in written.split(b'"version":"')[1:]]


def predict(batch: Batch) -> Outputs:
    """Fails for an age of 13, and overflows for one of 99."""
    if any(row[0] == 13 for row in batch.rows):
        raise ZeroDivisionError("the needle")
    return outputs(CHURN, [float("inf") if row[0] == 99 else row[0] / 4 for row in batch.rows])


@pytest.fixture
def here(log: Log) -> Iterator[Served]:
    with served(log, {"1": constant(CHURN, 1.0), "2": constant(CHURN, 2.0)}) as started:
        yield started


@pytest.fixture(params=[True, False], ids=["fast lane", "ordinary road"])
def road(log: Log, request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(log, {"1": constant(CHURN, 1.0), "2": constant(CHURN, 2.0)}, fast_lane=request.param) as started:
        yield started


@pytest.fixture(scope="module")
def roads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    """The fast lane and the ordinary road."""
    logs = [Log(tmp_path_factory.mktemp("roads") / "log") for _ in range(2)]
    model = FakeModel(CHURN, predict)
    with served(logs[0], {"1": model}) as lane, served(logs[1], {"1": model}, fast_lane=False) as ordinary:
        yield lane, ordinary
    for log in logs:
        log.close()


TARGETS = [
    LIVE,
    VERSION_1,
    LIVE + b"?x=1",
    b"/models/%63hurn/predict",
    b"/models/churn/predict/",
    b"/models/churn/versions/2/predict",
    b"/models/nothing/predict",
    b"/models/%00/predict",
    b"/models/%ff/versions/1/predict",
    b"/models/..%2f..%2fchurn/predict",
    b"/models/default/predict",
    b"/models/churn",
    b"/models",
]
BODIES = [
    ROW,
    b"[%b,%b]" % (ROW, ROW),
    b" \n[%b]" % ROW,
    b"[]",
    b"{}",
    b"",
    b"null",
    b'{"age":"thirty","signup_month":6}',
    b"[%b]" % b",".join([ROW] * 17 + [b'{"age":"thirty","signup_month":6}']),
    b'{"age":13,"signup_month":"June"}',
    b'{"age":99,"signup_month":"June"}',
    b'[%b,{"age":99,"signup_month":"June"}]' % ROW,
    b'{"age":1,"age":2,"signup_month":"June"}',
    b'{"age":30,"signup_month":"June","other":1}',
    b'\xef\xbb\xbf{"age":30,"signup_month":"June"}',
    b'{"age":NaN,"signup_month":"\\ud800"}',
    b'{"features":[1,2,3,4]}',
    b'[{"features":[1,2,3]}]',
    ROW + b" " * 200_000,
    b'[%b,{"age":"thirty","other":1}]' % ROW + b" " * 200_000,
    b'{"age":[%b1]}' % (b"[]," * 100_000),
]
LINES = [b"Content-Type: application/json", b"Content-Type: text/plain", b"X-Request-Timeout-Ms: 0", b"Accept: */*"]


def both(roads: tuple[Served, Served], request: bytes) -> bytes:
    """What is written in answer, by either road."""
    lane, ordinary = (road.connect().feed(request) for road in roads)
    assert lane == ordinary
    return lane


@pytest.mark.parametrize("target", TARGETS)
def test_both_roads_answer_alike_whatever_is_asked_for(roads: tuple[Served, Served], target: bytes) -> None:
    for body in (ROW, b"{}"):
        for line in LINES:
            assert both(roads, asking(target, body, line=line)).startswith(b"HTTP/1.1 ")


def test_both_roads_answer_alike_whatever_is_sent(roads: tuple[Served, Served]) -> None:
    for body in BODIES:
        for line in LINES:
            assert both(roads, asking(body=body, line=line)).startswith(b"HTTP/1.1 ")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(BODIES), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 3), st.binary(max_size=3))))
def test_both_roads_answer_alike_what_is_spoilt(
    roads: tuple[Served, Served], body: bytes, spoilt: list[tuple[int, int, bytes]]
) -> None:
    for at, gone, come in spoilt:
        body = body[:at] + come + body[at + gone :]

    both(roads, asking(LIVE, body))


def test_the_paths_of_a_live_model_are_on_the_fast_lane(here: Served) -> None:
    assert {target for _, target in here.lane.routes} >= {LIVE, VERSION_1, b"/models/default/predict"}

    here.activate("2")

    assert VERSION_1 not in {target for _, target in here.lane.routes}
    assert {target for _, target in here.lane.routes} >= {LIVE, b"/models/churn/versions/2/predict", b"/predict"}


def test_both_paths_of_a_version_share_its_time(here: Served) -> None:
    routes = here.lane.routes

    assert routes[b"POST", LIVE].service_time is routes[b"POST", VERSION_1].service_time


def test_without_the_fast_lane_there_are_no_routes_on_it(log: Log) -> None:
    with served(log, {"1": constant(CHURN, 1.0)}, fast_lane=False) as started:
        assert started.lane.routes == {}


def test_a_connection_that_goes_on_is_answered_by_the_version_that_has_become_live(road: Served) -> None:
    connection = road.connect()
    for _ in range(3):  # so that the head is known
        assert versions(connection.feed(asking())) == ["1"]

    road.activate("2")

    assert versions(connection.feed(asking())) == ["2"]
    assert b'"code":"version_not_found"' in connection.feed(asking(VERSION_1))


def test_a_request_whose_body_is_on_its_way_is_answered_by_the_version_that_it_began_with(here: Served) -> None:
    request = asking()
    connection = here.connect()
    connection.feed(request[:-5])

    here.activate("2")

    assert versions(connection.feed(request[-5:])) == ["1"]
    assert versions(connection.feed(request)) == ["2"]


def test_a_request_that_waits_for_its_turn_is_answered_by_the_version_that_it_began_with(here: Served) -> None:
    here.lane.routes[b"POST", LIVE].service_time.mean = 0.01
    connection = here.connect()
    connection.protocol.data_received(asking())

    here.activate("2")
    connection.settle()

    assert versions(connection.transport.written) == ["1"]


def test_a_version_is_freed_with_the_last_request_that_holds_it(here: Served) -> None:
    request = asking()
    idle, active = here.connect(), here.connect()
    idle.feed(request, request)
    active.feed(request, request[:-5])
    old = ref(here.models.find("churn").served)
    gc.collect()
    gc.disable()
    try:
        here.activate("2")
        assert old() is not None
        assert versions(active.feed(request[-5:])) == ["1"]

        assert old() is None
    finally:
        gc.enable()


def test_a_version_that_failed_is_freed_like_any_other(log: Log) -> None:
    with served(log, {"1": FakeModel(CHURN, predict), "2": constant(CHURN, 2.0)}, fast_lane=False) as started:
        connection = started.connect()
        assert b"500 Internal Server Error" in connection.feed(asking(body=ROW.replace(b"30", b"13")))
        old = ref(started.models.find("churn").served)
        started.activate("2")
        assert versions(connection.feed(asking())) == ["2"]
        gc.collect()

        assert old() is None


def counted(log: Log) -> set[str]:
    """The versions of the model of which there are series."""
    keys = (key for key, _ in read(log.memory))
    return {key[key.index("churn") + 1] for key in keys if "churn" in key}


def test_the_series_of_a_version_are_kept_for_some_time_after_its_end(log: Log, here: Served) -> None:
    here.activate("2")
    here.look()

    assert counted(log) == {"1", "2"}


def test_the_series_of_a_version_are_given_up_some_time_after_its_end(
    log: Log, here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_host, "SERIES_KEPT_SECONDS", 0.0)
    here.activate("2")
    here.look()

    assert counted(log) == {"2"}


def test_the_series_of_a_version_that_is_live_again_are_kept(
    log: Log, here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_host, "SERIES_KEPT_SECONDS", 0.0)
    one, two = (here.models.open("churn", here.placed[version]) for version in "12")

    async def there_and_back() -> None:
        here.models.install(two)
        here.models.install(one)

    here.loop.run_until_complete(there_and_back())
    here.look()

    assert counted(log) == {"1"}


def test_a_version_that_is_opened_while_its_series_are_given_up_is_counted_in_series_of_its_own(
    log: Log, here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_host, "SERIES_KEPT_SECONDS", 0.0)
    connection = here.connect()
    connection.feed(asking())
    one = here.models.open("churn", here.placed["1"])
    here.activate("2")
    here.look()
    assert counted(log) == {"2"}

    async def install() -> None:
        here.models.install(one)

    here.loop.run_until_complete(install())
    connection.feed(asking())

    requests = {key[3]: sum(values[:-1]) for key, values in read(log.memory) if key[0] == REQUEST}
    assert requests == {"1": 1}


def test_a_version_that_is_loaded_anew_keeps_its_series(
    log: Log, here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_host, "SERIES_KEPT_SECONDS", 0.0)
    here.activate("1")
    here.look()

    assert counted(log) == {"1"}


def test_versions_that_come_and_go_lose_no_request(road: Served) -> None:
    connections: list[Connection] = [road.connect() for _ in range(4)]
    for turn in range(20):
        version = str(turn % 2 + 1)
        road.activate(version)
        with pytest.raises(ModelRefused):
            road.activate("3")
        for connection in connections:
            written = connection.feed(asking() * 3)
            assert versions(written) == [version] * 3


def test_the_reply_is_the_models_own(here: Served) -> None:
    body = here.connect().feed(asking()).partition(b"\r\n\r\n")[2]

    assert json.loads(body) == {"prediction": 1.0, "status": "success", "model": "churn", "version": "1"}

"""What the tests of the gate are given."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.log import Log
from tests.unit.server.behind_gate import Served, served
from tests.unit.server.wired import Pair

KIB = 1024
LARGEST_BODY = 256 * KIB


@contextmanager
def small(directory: Path, *, fast_lane: bool) -> Iterator[Served]:
    """The application behind a gate with room for little, of which nothing but requests may be logged."""
    log = Log(directory / "log")
    with served(
        log,
        fast_lane=fast_lane,
        log_requests="all",
        max_body_bytes=LARGEST_BODY,
        max_buffered_bytes=4 * LARGEST_BODY,
        max_rows=1000,
    ) as started:
        yield started
    assert {event["event"] for event in log.events} <= {"service_started", "request", "service_stopped"}
    log.close()


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A small gate with the fast lane."""
    with small(tmp_path_factory.mktemp("gate"), fast_lane=True) as started:
        yield started


@pytest.fixture(scope="module", params=["fast lane", "ordinary road"])
def gate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A small gate with the fast lane, and one without."""
    with small(tmp_path_factory.mktemp("gate"), fast_lane=request.param == "fast lane") as started:
        yield started


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two applications as they ship that differ in nothing but the road: all must be answered alike."""
    logs = [Log(tmp_path_factory.mktemp("pair") / "log") for _ in range(2)]
    with served(logs[0]) as lane, served(logs[1], fast_lane=False) as road:
        yield Pair(lane, road)
    for log in logs:
        log.close()

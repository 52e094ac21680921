"""The services that the gate's tests attack: with the fast lane and without, each shared by all tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.service import Service, serving

KIB = 1024
LARGEST_BODY = 256 * KIB
MOST_BUFFERED = 1024 * KIB
MOST_ROWS = 1000
KEEP_ALIVE = 0.8


def check_log(service: Service) -> None:
    """Assert that nothing was logged but that requests came, whatever they were."""
    assert {(event["event"], event["level"]) for event in service.events} <= {
        ("worker_started", "info"),
        ("service_started", "info"),
        ("admin_listening", "info"),
        ("listening", "info"),
        ("request", "info"),
        ("request", "error"),
        ("requests_turned_away", "warning"),
    }


@contextmanager
def small(fast_lane: str) -> Iterator[Service]:
    """A service with room for little."""
    with serving(
        FAST_LANE=fast_lane,
        LOG_REQUESTS="all",
        MAX_BODY_BYTES=str(LARGEST_BODY),
        MAX_BUFFERED_BYTES=str(MOST_BUFFERED),
        MAX_ROWS=str(MOST_ROWS),
    ) as started:
        yield started
        check_log(started)


@contextmanager
def small_and_hasty(fast_lane: str) -> Iterator[Service]:
    """A service with room for little that waits for nobody."""
    with serving(
        FAST_LANE=fast_lane,
        LOG_REQUESTS="all",
        MAX_BODY_BYTES=str(LARGEST_BODY),
        MAX_BUFFERED_BYTES=str(MOST_BUFFERED),
        HEADER_TIMEOUT="0.3",
        BODY_TIMEOUT="0.3",
        WRITE_TIMEOUT="0.3",
        KEEP_ALIVE_TIMEOUT=str(KEEP_ALIVE),
    ) as started:
        yield started
        check_log(started)


@pytest.fixture(scope="session")
def gates() -> Iterator[dict[str, Service]]:
    """Services with room for little, for the tests of all files."""
    with small("true") as lane, small("false") as road:
        yield {"fast lane": lane, "ordinary road": road}


@pytest.fixture(scope="session")
def hasty_gates() -> Iterator[dict[str, Service]]:
    """Services that wait for nobody, for the tests of all files."""
    with small_and_hasty("true") as lane, small_and_hasty("false") as road:
        yield {"fast lane": lane, "ordinary road": road}


@pytest.fixture(scope="module", params=["fast lane", "ordinary road"])
def gate(request: pytest.FixtureRequest, gates: dict[str, Service]) -> Service:
    """The one or the other with room for little."""
    return gates[request.param]


@pytest.fixture(scope="module", params=["fast lane", "ordinary road"])
def hasty(request: pytest.FixtureRequest, hasty_gates: dict[str, Service]) -> Service:
    """The one or the other that waits for nobody."""
    return hasty_gates[request.param]

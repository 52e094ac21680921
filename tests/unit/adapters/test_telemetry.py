"""What is logged of requests: a line each, but for those that are turned away."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest

from tests.unit.log import Log
from tests.unit.server.behind_gate import Clock
from weighbridge.adapters.logs import start_logging
from weighbridge.adapters.metrics import REQUEST, RequestMetrics
from weighbridge.adapters.series import read
from weighbridge.adapters.telemetry import RequestTelemetry

Policy = Literal["failed", "all", "none"]


@contextmanager
def telling(log: Log, policy: Policy = "failed") -> Iterator[RequestTelemetry]:
    """Telemetry; what it logs is complete afterwards."""
    with contextmanager(start_logging)(log.descriptor, level="info", log_format="json") as logger:
        yield RequestTelemetry(logger, RequestMetrics(log.memory), policy=policy, slow_ms=1000)


def finish(telemetry: RequestTelemetry, status: int, times: int = 1) -> None:
    for _ in range(times):
        telemetry.finished(telemetry.metrics.route("/predict"), "mine", b"POST", b"/predict", (status, b"", b""), 0.5)


@pytest.mark.parametrize("policy", ["failed", "all"])
def test_requests_that_are_turned_away_are_logged_once_a_second_with_their_number(
    log: Log, monkeypatch: pytest.MonkeyPatch, policy: Policy
) -> None:
    clock = Clock(monkeypatch)
    with telling(log, policy) as telemetry:
        finish(telemetry, 503, times=3)
        clock.now += 0.9
        finish(telemetry, 503, times=2)
        clock.now += 0.2
        finish(telemetry, 503, times=4)

    assert [(line["event"], line["level"], line["count"]) for line in log.events] == [
        ("requests_turned_away", "warning", 1),
        ("requests_turned_away", "warning", 5),
    ]


def test_requests_that_are_turned_away_are_not_logged_where_none_is(log: Log) -> None:
    with telling(log, "none") as telemetry:
        finish(telemetry, 503)

    assert log.events == []


def test_requests_that_are_turned_away_are_each_counted(log: Log) -> None:
    with telling(log, "none") as telemetry:
        finish(telemetry, 503, times=7)

    assert [sum(values[:-1]) for key, values in read(log.memory) if key[0] == REQUEST and key[-1] == "503"] == [7]


def test_other_failures_are_logged_each_by_itself(log: Log) -> None:
    with telling(log) as telemetry:
        finish(telemetry, 504, times=2)
        finish(telemetry, 500)

    assert [(line["level"], line["status"]) for line in log.of("request")] == [
        ("error", status) for status in (504, 504, 500)
    ]

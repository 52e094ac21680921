import os

import pytest

from weighbridge.adapters.system.lending import borrowed, lent
from weighbridge.server.runner.orders import Order, Report


def test_an_order_reaches_its_runner_as_it_was_given() -> None:
    order = Order("churn", "1.2", "ü" * 10**6, threads=2, memory=2**40, max_batch_rows=256, repeat=False)

    with lent(order) as memory:
        descriptor = os.dup(memory)

    assert borrowed(Order, descriptor) == order
    os.close(descriptor)


def test_a_report_comes_as_it_went() -> None:
    report = Report(3, 0.25, 1e-9)

    assert Report.read(report.text()) == report


@pytest.mark.parametrize(
    "text",
    [
        "",
        "opened",
        "[1, 0.1, 0.1]",
        '{"golden": 1, "call_seconds": 0.1}',
        '{"golden": "1", "call_seconds": 0.1, "row_seconds": 0.1}',
        '{"golden": -1, "call_seconds": 0.1, "row_seconds": 0.1}',
        '{"golden": 1, "call_seconds": NaN, "row_seconds": 0.1}',
        '{"golden": 1, "call_seconds": 0.1, "row_seconds": 1e999}',
        '{"golden": 1, "call_seconds": -0.1, "row_seconds": 0.1}',
        "[" * 10_000,
    ],
)
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        Report.read(text)


@pytest.mark.parametrize(
    ("call_seconds", "row_seconds", "rows"),
    [(0.001, 0.0001, 40), (0.0, 0.001, 5), (0.1, 0.001, 1), (0.0, 0.0, 1_000_000), (0.0, 0.1, 1)],
)
def test_a_slice_has_as_many_rows_as_5_ms_hold(call_seconds: float, row_seconds: float, rows: int) -> None:
    assert Report(2, call_seconds, row_seconds).slice_rows == pytest.approx(rows, abs=1)


def test_a_call_of_one_row_takes_both_parts() -> None:
    assert Report(2, 0.5, 0.25).one_row_seconds == 0.75

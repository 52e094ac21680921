import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.unit.models import CHURN, SCORE, FakeModel, constant, outputs
from weighbridge.application.inline import Inline
from weighbridge.application.live import Later, LiveModels, Served
from weighbridge.domain.batch import Batch, Outputs, Rows
from weighbridge.domain.errors import (
    FeatureCountMismatch,
    FeatureTooLarge,
    InferenceFailed,
    ModelCrashed,
    ModelNotFound,
    ModelUnavailable,
    PredictionNotFinite,
    TooManyRows,
    VersionNotFound,
)
from weighbridge.domain.signature import Column, Kind, Signature

ROW = (30, "June")
VECTOR = Signature((Column(name="features", kind=Kind.FLOAT, width=2),), (SCORE,))
MIXED = Signature((CHURN.inputs[0], Column(name="pixels", kind=Kind.INT, width=3)), (SCORE,))
CLASSES = Signature(
    CHURN.inputs,
    (Column(name="label", kind=Kind.STRING), Column(name="probabilities", kind=Kind.FLOAT, width=2)),
)


def served(model: FakeModel, version: str = "1") -> Served:
    return Served("churn", version, Inline(model, slice_rows=100), max_rows=100)


def now(model: FakeModel, rows: Rows) -> Outputs:
    """The outputs that a model gives here and now."""
    outputs = served(model)(rows)
    assert isinstance(outputs, tuple)
    return outputs


def test_rows_reach_the_model_as_they_are_and_its_outputs_come_back() -> None:
    model = constant(CLASSES, "stays", [0.75, 0.25])

    label, probabilities = now(model, [ROW, ROW])

    [batch] = model.seen
    assert (batch.signature, batch.rows) == (CLASSES, [ROW, ROW])
    assert label.tolist() == ["stays", "stays"]
    assert probabilities.tolist() == [[0.75, 0.25]] * 2


def test_more_rows_than_one_call_may_score_are_refused_before_the_model_sees_them() -> None:
    model = constant(CHURN, 0.5)

    with pytest.raises(TooManyRows, match="expected at most 100 rows, got 101"):
        served(model)([ROW] * 101)

    assert not model.seen


@pytest.mark.parametrize(
    ("rows", "row", "got"), [([[1.0]], None, 1), ([[1.0, 2.0], [1.0, 2.0, 3.0], []], 1, 3), ([[]], None, 0)]
)
def test_a_vector_of_another_width_is_refused_with_the_first_such_row(
    rows: list[list[float]], row: int | None, got: int
) -> None:
    with pytest.raises(FeatureCountMismatch, match=f"expected 2 features.*, got {got}") as caught:
        served(constant(VECTOR, 0.5))(rows)

    assert (caught.value.row, caught.value.column) == (row, "features")


def test_a_vector_among_other_columns_is_refused_by_its_name() -> None:
    with pytest.raises(FeatureCountMismatch, match="expected 3 features in row 1, got 2") as caught:
        served(constant(MIXED, 0.5))([(1, [1, 2, 3]), (1, [1, 2])])

    assert (caught.value.row, caught.value.column) == (1, "pixels")


def test_vectors_that_are_as_wide_as_they_should_be_pass() -> None:
    [predictions] = now(constant(MIXED, 0.5), [(1, [1, 2, 3]), (1, [4, 5, 6])])

    assert predictions.tolist() == [0.5, 0.5]


def _raises(_batch: Batch) -> Outputs:
    raise ZeroDivisionError


WRONG: dict[str, Callable[[Batch], Any]] = {
    "raises": _raises,
    "gives no outputs": lambda _: (),
    "gives too many outputs": lambda _: (np.zeros(1), np.zeros(1)),
    "gives no array": lambda _: ([0.5],),
    "gives too many rows": lambda _: (np.zeros(2),),
    "gives a vector": lambda _: (np.zeros((1, 1)),),
    "gives another type": lambda _: (np.zeros(1, np.float32),),
    "gives nothing": lambda _: None,
}


@pytest.mark.parametrize("predict", WRONG.values(), ids=WRONG)
def test_a_model_that_fails_is_told_with_its_cause(predict: Callable[[Batch], Any]) -> None:
    with pytest.raises(InferenceFailed) as caught:
        served(FakeModel(CHURN, predict))([ROW])

    assert caught.value.__cause__ is not None


LARGEST = 3.4028234663852886e38
INCOMES = Signature(
    (
        CHURN.inputs[0],
        Column(name="income", kind=Kind.FLOAT, nullable=True),
        Column(name="pixels", kind=Kind.FLOAT, width=2),
    ),
    (SCORE,),
)


@pytest.mark.parametrize(
    ("rows", "row", "column"),
    [
        ([(1, 1e308, [1.0, 2.0])], None, "income"),
        ([(1, None, [1.0, -1e39])], None, "pixels"),
        ([(1, None, [1.0, 2.0]), (1, 2.0, [1.0, 2.0]), (1, -3.5e38, [1e39, 1e39])], 2, "income"),
        ([(1, None, [1.0, 2.0]), (1, 2.0, [1e300, 2.0]), (1, 1e300, [1.0, 2.0])], 1, "pixels"),
    ],
)
def test_a_model_that_fails_on_a_number_beyond_single_precision_is_told_with_its_place(
    rows: Any, row: int | None, column: str
) -> None:
    with pytest.raises(FeatureTooLarge, match=f"value of {column}.* at most 3.4e38$") as caught:
        served(FakeModel(INCOMES, _raises))(rows)

    assert (caught.value.row, caught.value.column) == (row, column)


def test_a_model_may_say_itself_which_number_is_too_large() -> None:
    error = FeatureTooLarge(most="7", column="age", row=1)

    def refuse(_: Batch) -> Outputs:
        raise error

    with pytest.raises(FeatureTooLarge) as caught:
        served(FakeModel(INCOMES, refuse))([(1, 2.0, [1.0, 2.0]), (8, 1e308, [1.0, 2.0])])

    assert caught.value is error


def test_a_model_that_takes_numbers_beyond_single_precision_is_given_them() -> None:
    [predictions] = now(constant(INCOMES, 0.5), [(1, 1e308, [-1e308, 1.0])])

    assert predictions.tolist() == [0.5]


@pytest.mark.parametrize("rows", [[(2**63 - 1, LARGEST, [-LARGEST, 0.0])], [(1, None, [0.0, 0.0])], []])
def test_a_model_that_fails_on_other_numbers_fails_by_itself(rows: Any) -> None:
    with pytest.raises(InferenceFailed):
        served(FakeModel(INCOMES, _raises))(rows)


@pytest.mark.parametrize("count", [1, 3, 50])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_prediction_that_is_not_finite_is_refused_with_the_first_such_row(count: int, value: float) -> None:
    probabilities = [[0.5, 0.5]] * (count - 1) + [[0.5, value]]
    model = FakeModel(CLASSES, lambda _: outputs(CLASSES, ["stays"] * count, probabilities))

    with pytest.raises(PredictionNotFinite) as caught:
        served(model)([ROW] * count)

    assert caught.value.row == (count - 1 if count > 1 else None)


def test_many_finite_predictions_pass() -> None:
    [predictions] = now(constant(CHURN, 0.5), [ROW] * 100)

    assert predictions.tolist() == [0.5] * 100


# Outputs that come later


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


class Remote:
    """A Scorer that answers later, by a future that the test completes."""

    signature = CHURN

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Outputs] = loop.create_future()

    def ask(self, _rows: Rows) -> asyncio.Future[Outputs]:
        return self.future


def later(remote: Remote, rows: Rows) -> Later[Outputs]:
    answer = Served("churn", "1", remote, max_rows=100)(rows)
    assert isinstance(answer, Later)
    return answer


def test_outputs_that_come_later_are_had_once_they_are_there(loop: asyncio.AbstractEventLoop) -> None:
    remote = Remote(loop)
    answer = later(remote, [ROW, ROW])
    assert answer.outputs is remote.future
    remote.future.set_result(outputs(CHURN, [0.5, 0.25]))

    [predictions] = answer.finish()
    assert predictions.tolist() == [0.5, 0.25]


def test_something_is_done_to_an_answer_when_it_is_there_and_not_before(loop: asyncio.AbstractEventLoop) -> None:
    remote = Remote(loop)
    seen: list[int] = []

    def count(found: Outputs) -> int:
        seen.append(len(found[0]))
        return seen[-1]

    answer = later(remote, [ROW]).then(count).then(str)
    remote.future.set_result(outputs(CHURN, [0.5]))
    assert (answer.outputs, seen) == (remote.future, [])

    assert answer.finish() == "1"


@pytest.mark.parametrize(
    "error", [ModelCrashed(), ModelUnavailable("the reason"), FeatureTooLarge(most="7", column="age")]
)
def test_an_error_that_is_stated_later_is_that_of_the_request(
    loop: asyncio.AbstractEventLoop, error: Exception
) -> None:
    remote = Remote(loop)
    answer = later(remote, [ROW])
    remote.future.set_exception(error)

    with pytest.raises(type(error)) as caught:
        answer.finish()
    assert caught.value is error


def test_a_model_that_fails_later_is_told_with_its_cause(loop: asyncio.AbstractEventLoop) -> None:
    remote = Remote(loop)
    answer = later(remote, [ROW])
    remote.future.set_exception(error := ZeroDivisionError())

    with pytest.raises(InferenceFailed) as caught:
        answer.finish()
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("found", [(), outputs(CHURN, [0.5]), ([0.5, 0.5],), None])
def test_outputs_that_come_later_are_checked_as_well(loop: asyncio.AbstractEventLoop, found: Any) -> None:
    remote = Remote(loop)
    answer = later(remote, [ROW, ROW])
    remote.future.set_result(found)

    with pytest.raises(InferenceFailed):
        answer.finish()


def test_a_prediction_that_is_not_finite_is_refused_later_as_well(loop: asyncio.AbstractEventLoop) -> None:
    remote = Remote(loop)
    answer = later(remote, [ROW, ROW])
    remote.future.set_result(outputs(CHURN, [0.5, float("inf")]))

    with pytest.raises(PredictionNotFinite) as caught:
        answer.finish()
    assert caught.value.row == 1


def test_the_version_that_was_installed_last_is_found() -> None:
    registry = LiveModels()
    with pytest.raises(ModelNotFound):
        registry.find("churn")

    first, second = (served(constant(CHURN, 0.5), version) for version in "12")
    registry.install(first)
    assert registry.find("churn") is registry.find("churn", "1") is first
    registry.install(second)

    assert registry.find("churn") is registry.find("churn", "2") is second
    with pytest.raises(VersionNotFound):
        registry.find("churn", "1")

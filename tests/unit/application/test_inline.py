import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.models import SCORE, FakeModel, outputs
from weighbridge.application.inline import Inline
from weighbridge.application.live import Later, Served
from weighbridge.domain.batch import Batch, Outputs, Rows
from weighbridge.domain.errors import FeatureTooLarge, InferenceFailed, PredictionNotFinite
from weighbridge.domain.signature import Column, Kind, Signature

VECTOR = Signature((Column(name="features", kind=Kind.FLOAT, width=2),), (SCORE,))
CLASSES = Signature(
    (Column(name="age", kind=Kind.FLOAT),),
    (Column(name="label", kind=Kind.STRING), Column(name="probabilities", kind=Kind.FLOAT, width=2)),
)
SLICE_ROWS = 3


def classify(batch: Batch) -> Outputs:
    """Each row by itself."""
    ages = [row[0] for row in batch.rows]
    return outputs(CLASSES, [f"age {age}" for age in ages], [[age, -age] for age in ages])


def asked(model: FakeModel, rows: Rows) -> Outputs:
    """The outputs, now or later."""

    async def ask() -> Outputs:
        found = Inline(model, SLICE_ROWS).ask(rows)
        return found if isinstance(found, tuple) else await found

    return asyncio.run(ask())


def served(model: FakeModel, rows: Rows) -> Outputs:
    """The same, checked as it is for clients."""

    async def ask() -> Outputs:
        found = Served("churn", "1", Inline(model, SLICE_ROWS), max_rows=100)(rows)
        assert isinstance(found, Later)
        await asyncio.wait([found.outputs])
        return found.finish()

    return asyncio.run(ask())


def test_no_more_rows_than_a_slice_are_asked_here_and_now() -> None:
    model = FakeModel(CLASSES, classify)
    rows = [(float(age),) for age in range(SLICE_ROWS)]

    found = Inline(model, SLICE_ROWS).ask(rows)

    assert isinstance(found, tuple)
    label, _ = found
    assert label.tolist() == ["age 0.0", "age 1.0", "age 2.0"]
    assert [batch.rows for batch in model.seen] == [rows]


@given(st.lists(st.floats(-100, 100), max_size=20))
def test_rows_get_the_same_in_slices_as_at_once(ages: list[float]) -> None:
    model = FakeModel(CLASSES, classify)
    rows = [(age,) for age in ages]

    sliced, whole = asked(model, rows), classify(Batch(CLASSES, rows))

    assert all(len(batch) <= SLICE_ROWS for batch in model.seen)
    for ours, theirs in zip(sliced, whole, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()


def test_a_matrix_goes_in_slices_too() -> None:
    model = FakeModel(VECTOR, lambda batch: outputs(VECTOR, [sum(row) for row in batch.rows]))

    [scores] = asked(model, np.arange(14.0).reshape(7, 2))

    assert scores.tolist() == [1, 5, 9, 13, 17, 21, 25]
    assert [len(batch) for batch in model.seen] == [3, 3, 1]


def test_the_loop_looks_at_its_sockets_three_times_before_each_slice() -> None:
    model = FakeModel(CLASSES, classify)
    seen: list[int] = []

    async def ask() -> None:
        found = Inline(model, SLICE_ROWS).ask([(1.0,)] * 9)
        assert isinstance(found, asyncio.Future)
        while not found.done():
            await asyncio.sleep(0)
            seen.append(len(model.seen))

    asyncio.run(ask())
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_slices_that_nobody_waits_for_any_more_are_not_called() -> None:
    model = FakeModel(CLASSES, classify)

    async def ask() -> None:
        found = Inline(model, SLICE_ROWS).ask([(1.0,)] * 9)
        assert isinstance(found, asyncio.Future)
        for _ in range(5):
            await asyncio.sleep(0)
        found.cancel()
        await asyncio.wait([found])

    asyncio.run(ask())
    assert len(model.seen) == 1


@pytest.mark.parametrize("row", [0, 2, 3, 8, 9])
def test_a_number_that_is_too_large_is_told_by_its_place_among_all_rows(row: int) -> None:
    def refuse(batch: Batch) -> Outputs:
        places = [place for place, [age] in enumerate(batch.rows) if age == 7]
        if places:
            raise FeatureTooLarge(most="6", column="age", row=places[0] if len(batch) > 1 else None)
        return classify(batch)

    with pytest.raises(FeatureTooLarge, match=f"value of age in row {row} .* at most 6$") as caught:
        served(FakeModel(CLASSES, refuse), [(7.0 if place == row else 1.0,) for place in range(10)])

    assert caught.value.row == row


def _raises(batch: Batch) -> Outputs:
    if any(age > 6 for [age] in batch.rows):
        raise ZeroDivisionError
    return classify(batch)


def test_a_number_on_which_a_slice_fails_is_told_by_its_place_among_all_rows() -> None:
    with pytest.raises(FeatureTooLarge) as caught:
        served(FakeModel(CLASSES, _raises), [(1.0,)] * 7 + [(1e308,)])

    assert caught.value.row == 7


def test_a_prediction_that_is_not_finite_is_told_by_its_place_among_all_rows() -> None:
    with pytest.raises(PredictionNotFinite) as caught:
        served(FakeModel(CLASSES, classify), [(1.0,)] * 7 + [(float("inf"),)])

    assert caught.value.row == 7


WRONG: dict[str, Callable[[Batch], Any]] = {
    "raises": _raises,
    "gives a row less": lambda batch: classify(Batch(CLASSES, batch.rows[1:])),
    "gives an output less in one slice": lambda batch: classify(batch)[: 1 + (len(batch) > 1)],
    "gives nothing": lambda _: None,
}


@pytest.mark.parametrize("predict", WRONG.values(), ids=WRONG)
def test_a_model_that_fails_in_a_slice_has_failed(predict: Callable[[Batch], Any]) -> None:
    with pytest.raises(InferenceFailed) as caught:
        served(FakeModel(CLASSES, predict), [(7.0,)] * 7)

    assert caught.value.__cause__ is not None

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.application.predict import PredictUseCase
from weighbridge.domain.errors import FeatureCountMismatch, FeaturesNotFinite, PredictionNotFinite, TooManyRows
from weighbridge.domain.weights import Weights

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture
def predict() -> PredictUseCase:
    """The model as it ships, of at most three rows at once."""
    return PredictUseCase(Weights((0.25, -0.5, 1.25, 0.0)), max_rows=3)


def test_a_row_is_scored(predict: PredictUseCase) -> None:
    assert predict([1.5, 2.25, -0.75, 4.0]) == -1.6875


def test_the_scale_factor_multiplies_the_score(predict: PredictUseCase) -> None:
    assert predict([1.5, 2.25, -0.75, 4.0], 2.0) == -3.375


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_row_of_another_width_is_refused(predict: PredictUseCase, count: int) -> None:
    with pytest.raises(FeatureCountMismatch, match=f"^expected 4 features, got {count}$"):
        predict([1.0] * count)


def test_a_prediction_that_overflows_is_refused(predict: PredictUseCase) -> None:
    with pytest.raises(PredictionNotFinite) as caught:
        predict([0.0, 0.0, 1.7e308, 0.0])

    assert caught.value.row is None


def test_a_batch_is_scored_in_order(predict: PredictUseCase) -> None:
    assert predict.batch([[1.5, 2.25, -0.75, 4.0], [1, 1, 1, 1]], 2.0).tolist() == [-3.375, 2.0]


def test_a_batch_of_no_rows_has_no_predictions(predict: PredictUseCase) -> None:
    assert predict.batch([]).tolist() == []


def test_a_batch_names_its_first_row_of_another_width(predict: PredictUseCase) -> None:
    with pytest.raises(FeatureCountMismatch, match=r"^expected 4 features in row 1, got 3$") as caught:
        predict.batch([[1, 1, 1, 1], [1, 1, 1], [1]])

    assert caught.value.row == 1


def test_a_batch_names_its_first_row_that_overflows(predict: PredictUseCase) -> None:
    with pytest.raises(PredictionNotFinite) as caught:
        predict.batch([[1, 1, 1, 1], [0, 0, 1.7e308, 0], [0, 0, -1.7e308, 0]])

    assert caught.value.row == 1


def test_a_batch_may_be_as_large_as_the_limit(predict: PredictUseCase) -> None:
    assert len(predict.batch([[1, 1, 1, 1]] * 3)) == 3


def test_a_batch_over_the_limit_is_refused_before_its_rows_are_looked_at(predict: PredictUseCase) -> None:
    with pytest.raises(TooManyRows, match=r"^expected at most 3 rows, got 4; send them in several requests$"):
        predict.batch([[], [], [], []])


@st.composite
def models_and_rows(draw: st.DrawFn) -> tuple[PredictUseCase, list[list[float]]]:
    width = draw(st.integers(min_value=1, max_value=12))
    row = st.lists(finite, min_size=width, max_size=width)
    model = PredictUseCase(Weights(tuple(draw(row))), max_rows=10)
    return model, draw(st.lists(row, min_size=1, max_size=4))


def bits(predict: PredictUseCase, features: list[float], scale_factor: float) -> str | None:
    """The prediction of one row, to the bit; None when it is refused."""
    try:
        return predict(features, scale_factor).hex()
    except PredictionNotFinite:
        return None


@given(models_and_rows(), finite.filter(lambda factor: factor > 0))
def test_a_batch_answers_as_its_rows_do_alone(
    drawn: tuple[PredictUseCase, list[list[float]]], scale_factor: float
) -> None:
    predict, rows = drawn
    alone = [bits(predict, features, scale_factor) for features in rows]

    if None in alone:
        with pytest.raises(PredictionNotFinite) as caught:
            predict.batch(rows, scale_factor)
        assert caught.value.row == alone.index(None)
    else:
        assert [prediction.hex() for prediction in predict.batch(rows, scale_factor).tolist()] == alone


def test_numbers_row_by_row_are_a_batch(predict: PredictUseCase) -> None:
    assert predict.batch(np.array([1.5, 2.25, -0.75, 4.0, 1, 1, 1, 1])).tolist() == [-1.6875, 1.0]


def test_numbers_that_end_within_a_row_are_refused_with_its_index(predict: PredictUseCase) -> None:
    with pytest.raises(FeatureCountMismatch, match=r"^expected 4 features in row 2, got 3$"):
        predict.batch(np.ones(11))


def test_more_numbers_than_the_rows_of_one_call_are_refused(predict: PredictUseCase) -> None:
    with pytest.raises(TooManyRows, match=r"^expected at most 3 rows, got 4; "):
        predict.batch(np.ones(17))


def test_a_matrix_of_another_width_is_refused(predict: PredictUseCase) -> None:
    with pytest.raises(FeatureCountMismatch, match=r"^expected 4 features in row 0, got 3$"):
        predict.batch(np.ones((2, 3)))


@pytest.mark.parametrize("feature", [math.nan, math.inf, -math.inf])
def test_a_feature_that_is_not_finite_is_refused_with_its_row(predict: PredictUseCase, feature: float) -> None:
    with pytest.raises(FeaturesNotFinite, match=r"^Row 1 holds an infinity or NaN; send finite numbers$") as caught:
        predict.batch(np.array([1.0] * 6 + [feature] + [1.0] * 5))

    assert caught.value.row == 1

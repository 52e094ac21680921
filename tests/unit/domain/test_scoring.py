from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.domain.scoring import score, score_rows
from weighbridge.domain.weights import Weights

finite = st.floats(allow_nan=False, allow_infinity=False)
moderate = st.floats(min_value=-1e100, max_value=1e100).filter(lambda value: value == 0 or abs(value) > 1e-100)


@st.composite
def rows_and_weights(draw: st.DrawFn, values: st.SearchStrategy[float]) -> tuple[list[list[float]], Weights]:
    width = draw(st.integers(min_value=1, max_value=40))
    row = st.lists(values, min_size=width, max_size=width)
    return draw(st.lists(row, min_size=1, max_size=5)), Weights(tuple(draw(row)))


def same_bits(left: float, right: float) -> bool:
    return (isnan(left) and isnan(right)) or left.hex() == right.hex()


def test_a_score_is_the_dot_product_times_the_scale_factor() -> None:
    weights = Weights((0.25, -0.5, 1.25, 0.0))

    assert score([1.5, 2.25, -0.75, 4.0], weights, 2.0) == -3.375


def test_the_products_are_added_from_left_to_right() -> None:
    assert score([1e16, 1.0, -1e16], Weights((1.0, 1.0, 1.0)), 1.0) == 0.0  # exactly it would be 1.0


def test_a_row_of_another_width_is_never_scored() -> None:
    with pytest.raises(ValueError, match="longer"):
        score_rows(np.ones((1, 1)), Weights((1.0, 1.0)), 1.0)


@given(rows_and_weights(finite), finite)
def test_a_row_gets_the_same_bits_in_a_batch_as_alone(
    drawn: tuple[list[list[float]], Weights], scale_factor: float
) -> None:
    rows, weights = drawn

    together = score_rows(np.array(rows), weights, scale_factor).tolist()

    assert all(
        same_bits(score(row, weights, scale_factor), in_batch) for row, in_batch in zip(rows, together, strict=True)
    )


@given(rows_and_weights(moderate), st.integers(min_value=-300, max_value=300))
def test_scoring_is_linear_to_the_bit_in_powers_of_two(drawn: tuple[list[list[float]], Weights], exponent: int) -> None:
    [row, *_], weights = drawn
    power = 2.0**exponent

    expected = score(row, weights, 1.0) * power

    assert score([value * power for value in row], weights, 1.0) == expected
    assert score(row, Weights(tuple(value * power for value in weights.values)), 1.0) == expected
    assert score(row, weights, power) == expected


@given(rows_and_weights(finite))
def test_scoring_is_odd(drawn: tuple[list[list[float]], Weights]) -> None:
    [row, *_], weights = drawn

    positive = score(row, weights, 1.0)

    assert isnan(positive) or score([-value for value in row], weights, 1.0) == -positive


@given(st.integers(min_value=1, max_value=40), finite)
def test_a_weight_of_one_picks_its_feature(width: int, value: float) -> None:
    row = [0.0] * (width - 1) + [value]
    weights = Weights((0.0,) * (width - 1) + (1.0,))

    assert score(row, weights, 1.0) == value


@given(
    st.lists(st.integers(min_value=-(2**20), max_value=2**20), min_size=4, max_size=4),
    st.lists(st.integers(min_value=-(2**20), max_value=2**20), min_size=4, max_size=4),
)
def test_scoring_is_additive_where_doubles_are_exact(left: list[int], right: list[int]) -> None:
    weights = Weights((0.25, -0.5, 1.25, 0.0))

    together = score([float(a + b) for a, b in zip(left, right, strict=True)], weights, 1.0)

    assert together == score(left, weights, 1.0) + score(right, weights, 1.0)

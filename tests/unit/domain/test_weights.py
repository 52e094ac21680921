from math import inf, nan

import pytest

from weighbridge.domain.errors import InvalidWeights
from weighbridge.domain.weights import Weights


def test_weights_have_one_value_per_feature() -> None:
    assert len(Weights((0.25, -0.5, 1.25))) == 3


def test_there_is_at_least_one_weight() -> None:
    with pytest.raises(InvalidWeights, match=r"^expected one or more weights, got none$"):
        Weights(())


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_every_weight_is_finite(value: float) -> None:
    with pytest.raises(InvalidWeights, match=r"^the weight at position 1 is not a finite number$"):
        Weights((0.25, value, 1.25))

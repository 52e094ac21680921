"""Linear scoring: dot(features, weights) * scale_factor.

Both forms add the products from left to right, starting at 0.0, each step rounded to a double: so a row gets the same
bits alone and in a batch. `sum()` (compensated from Python 3.12 on), `math.sumprod` and BLAS each round differently.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add, mul

import numpy as np
from numpy.typing import NDArray

from weighbridge.domain.weights import Weights


def score(features: Sequence[float], weights: Weights, scale_factor: float) -> float:
    """Score one row of `len(weights)` features; infinite or NaN when the arithmetic overflows."""
    return reduce(add, map(mul, features, weights.values), 0.0) * scale_factor


def score_rows(rows: NDArray[np.float64], weights: Weights, scale_factor: float) -> NDArray[np.float64]:
    """Score the rows of a matrix of shape (n, len(weights)) into a vector of shape (n,)."""
    total = np.zeros(len(rows))
    with np.errstate(over="ignore", invalid="ignore"):  # the caller judges what is not finite
        for column, weight in zip(rows.T, weights.values, strict=True):
            total += column * weight
        total *= scale_factor
    return total

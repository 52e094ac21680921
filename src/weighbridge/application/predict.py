"""Predict with the embedded linear model."""

from collections.abc import Sequence
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from weighbridge.domain.errors import FeatureCountMismatch, PredictionNotFinite, TooManyRows
from weighbridge.domain.scoring import score, score_rows
from weighbridge.domain.weights import Weights


class PredictUseCase:
    """Score rows that fit the model, and refuse those that do not before any arithmetic."""

    def __init__(self, weights: Weights, *, max_rows: int) -> None:
        self._weights = weights
        self._max_rows = max_rows

    def __call__(self, features: Sequence[float], scale_factor: float = 1.0) -> float:
        """Score one row. Raises FeatureCountMismatch, PredictionNotFinite."""
        width = len(self._weights)
        if len(features) != width:
            raise FeatureCountMismatch(expected=width, got=len(features))
        prediction = score(features, self._weights, scale_factor)
        if not isfinite(prediction):
            raise PredictionNotFinite
        return prediction

    def batch(self, rows: Sequence[Sequence[float]], scale_factor: float = 1.0) -> NDArray[np.float64]:
        """Score n rows into a vector of shape (n,), to the bit as one by one.

        Raises TooManyRows, FeatureCountMismatch, PredictionNotFinite; the latter two name the first such row.
        """
        if len(rows) > self._max_rows:
            raise TooManyRows(limit=self._max_rows, got=len(rows))
        width = len(self._weights)
        for index, row in enumerate(rows):
            if len(row) != width:
                raise FeatureCountMismatch(expected=width, got=len(row), row=index)
        predictions = score_rows(np.array(rows, dtype=np.float64).reshape(-1, width), self._weights, scale_factor)
        finite = np.isfinite(predictions)
        if not finite.all():
            raise PredictionNotFinite(row=int(finite.argmin()))
        return predictions

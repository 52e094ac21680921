"""Predict with the embedded linear model."""

from collections.abc import Sequence
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from weighbridge.domain.batch import Rows
from weighbridge.domain.errors import FeatureCountMismatch, FeaturesNotFinite, PredictionNotFinite, TooManyRows
from weighbridge.domain.scoring import score, score_rows
from weighbridge.domain.weights import Weights


class PredictUseCase:
    """Score rows that fit the model, and refuse those that do not before any arithmetic."""

    def __init__(self, weights: Weights, *, max_rows: int) -> None:
        self._weights = weights
        self._width = len(weights)
        self._max_rows = max_rows

    def __call__(self, features: Sequence[float], scale_factor: float = 1.0) -> float:
        """Score one row. Raises FeatureCountMismatch, PredictionNotFinite."""
        if len(features) != self._width:
            raise FeatureCountMismatch(expected=self._width, got=len(features))
        prediction = score(features, self._weights, scale_factor)
        if not isfinite(prediction):
            raise PredictionNotFinite
        return prediction

    def batch(self, rows: Rows, scale_factor: float = 1.0) -> NDArray[np.float64]:
        """Score n rows into a vector of shape (n,), to the bit as one by one.

        `rows` are n sequences, a matrix of shape (n, width), or a vector of n * width numbers, row by row.
        Raises TooManyRows, FeatureCountMismatch, FeaturesNotFinite, PredictionNotFinite; each but the first names the
        first such row.
        """
        matrix = self._fitting(rows)
        predictions = score_rows(matrix, self._weights, scale_factor)
        finite = np.isfinite(predictions)
        if not finite.all():
            raise PredictionNotFinite(row=int(finite.argmin()))
        return predictions

    def _fitting(self, rows: Rows) -> NDArray[np.float64]:
        """The rows as a matrix that the model takes."""
        width = self._width
        flat = isinstance(rows, np.ndarray) and rows.ndim == 1
        count, beyond = divmod(len(rows), width) if flat else (len(rows), 0)
        if count > self._max_rows:
            raise TooManyRows(limit=self._max_rows, got=count)
        if beyond:
            raise FeatureCountMismatch(expected=width, got=beyond, row=count)
        if not isinstance(rows, np.ndarray):
            for index, row in enumerate(rows):
                if len(row) != width:
                    raise FeatureCountMismatch(expected=width, got=len(row), row=index)
            return np.array(rows, dtype=np.float64).reshape(-1, width)
        if not flat and rows.shape[1] != width:
            raise FeatureCountMismatch(expected=width, got=rows.shape[1], row=0)
        matrix = rows.reshape(-1, width)
        finite = np.isfinite(matrix)
        if not finite.all():
            raise FeaturesNotFinite(row=int(finite.all(axis=1).argmin()))
        return matrix

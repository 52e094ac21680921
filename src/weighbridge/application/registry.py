"""The models that answer requests, by name."""

from collections.abc import Mapping

import numpy as np

from weighbridge.application.ports import Model, ModelLoader
from weighbridge.domain.batch import Batch, Outputs, Rows
from weighbridge.domain.errors import (
    FeatureCountMismatch,
    InferenceFailed,
    ModelNotFound,
    PredictionNotFinite,
    TooManyRows,
    VersionNotFound,
)
from weighbridge.domain.signature import Column, Signature


class Served:
    """A version of a model that answers requests. Whoever holds it may use it, whatever becomes live meanwhile."""

    def __init__(self, name: str, version: str, model: Model, *, max_rows: int) -> None:
        self.name = name
        self.version = version
        self.signature: Signature = model.signature
        self._model = model
        self._max_rows = max_rows
        self._vector = model.signature.vector

    def __call__(self, rows: Rows) -> Outputs:
        """Score rows that fit the signature.

        Raises TooManyRows, FeatureCountMismatch, InferenceFailed, PredictionNotFinite.
        """
        count = len(rows)
        if count > self._max_rows:
            raise TooManyRows(limit=self._max_rows, got=count)
        if self._vector is not None:
            self._check_width(rows, self._vector.width or 0)
        try:
            outputs = self._model.predict(Batch(self.signature, rows))
        except Exception as exc:
            raise InferenceFailed from exc
        for column, values in zip(self.signature.outputs, outputs, strict=True):
            _check_output(column, values, count)
        return outputs

    def _check_width(self, rows: Rows, width: int) -> None:
        alone = len(rows) == 1
        for index, row in enumerate(rows):
            if len(row) != width:
                raise FeatureCountMismatch(expected=width, got=len(row), row=None if alone else index)


def _check_output(column: Column, values: np.ndarray, count: int) -> None:
    """Raises InferenceFailed, PredictionNotFinite."""
    shape = (count,) if column.width is None else (count, column.width)
    if values.shape != shape:
        raise InferenceFailed from ValueError(f"expected {column.name} of shape {shape}, got {values.shape}")
    if values.dtype == np.float64:
        finite = np.isfinite(values)
        if not finite.all():
            row = int(finite.reshape(count, -1).all(axis=1).argmin())
            raise PredictionNotFinite(row=row if count > 1 else None)


class ModelRegistry:
    """Which version of each model is live. Loading runs in any thread, `install` and what reads on the event loop."""

    def __init__(self, loader: ModelLoader, *, max_rows: int) -> None:
        self._loader = loader
        self._max_rows = max_rows
        self.live: Mapping[str, Served] = {}

    def load(self, name: str, version: str) -> Served:
        """Load a version, which is not live yet. Raises ModelRefused."""
        return Served(name, version, self._loader.load(name, version), max_rows=self._max_rows)

    def install(self, served: Served) -> None:
        """Have a version answer all requests that begin from now on."""
        self.live = {**self.live, served.name: served}

    def find(self, name: str, version: str | None = None) -> Served:
        """The live version of a model. Raises ModelNotFound, VersionNotFound when it is not the one asked for."""
        served = self.live.get(name)
        if served is None:
            raise ModelNotFound
        if version is not None and version != served.version:
            raise VersionNotFound
        return served

"""The models that answer requests, by name."""

from collections.abc import Mapping
from math import isfinite
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighbridge.application.ports import Model, ModelLoader
from weighbridge.domain.batch import DTYPES, Batch, Outputs, Rows
from weighbridge.domain.errors import (
    FeatureCountMismatch,
    FeatureTooLarge,
    InferenceFailed,
    ModelNotFound,
    PredictionNotFinite,
    TooManyRows,
    VersionNotFound,
)
from weighbridge.domain.signature import Kind, Signature

_SINGLE = float(np.finfo(np.float32).max)

_FEW = 16  # numbers, which Python looks at sooner than numpy does


class Served:
    """A version of a model that answers requests. Whoever holds it may use it, whatever becomes live meanwhile."""

    def __init__(self, name: str, version: str, model: Model, *, max_rows: int) -> None:
        self.name = name
        self.version = version
        self.signature: Signature = model.signature
        self._model = model
        self.max_rows = max_rows
        self._vectors = [(place, column) for place, column in enumerate(self.signature.inputs) if column.width]
        self._outputs = [(column, np.dtype(DTYPES[column.kind])) for column in self.signature.outputs]
        self._floats = [place for place, column in enumerate(self.signature.outputs) if column.kind is Kind.FLOAT]

    def __call__(self, rows: Rows) -> Outputs:
        """Score rows that fit the signature.

        Raises TooManyRows, FeatureCountMismatch, FeatureTooLarge, InferenceFailed, PredictionNotFinite.
        """
        count = len(rows)
        if count > self.max_rows:
            raise TooManyRows(limit=self.max_rows, got=count)
        if self._vectors:
            self._check_widths(rows)
        batch = Batch(self.signature, rows)
        try:
            outputs = self._model.predict(batch)
            self._check_types(outputs, count)
        except FeatureTooLarge:
            raise
        except Exception as exc:
            _check_magnitudes(batch)
            raise InferenceFailed from exc
        for place in self._floats:
            _check_finite(outputs[place], count)
        return outputs

    def _check_types(self, outputs: Outputs, count: int) -> None:
        """Raises TypeError for what the signature does not say, ValueError for another number of outputs."""
        for (column, dtype), values in zip(self._outputs, outputs, strict=True):
            shape = (count,) if column.width is None else (count, column.width)
            if values.shape != shape or values.dtype != dtype:
                raise TypeError(f"expected {column.name} of {dtype} and {shape}, got {values.dtype} and {values.shape}")

    def _check_widths(self, rows: Rows) -> None:
        are_vectors = self.signature.vector is not None
        alone = len(rows) == 1
        for place, column in self._vectors:
            for index, row in enumerate(rows):
                got = len(row if are_vectors else row[place])
                if got != column.width:
                    raise FeatureCountMismatch(
                        expected=column.width or 0, got=got, row=None if alone else index, column=column.name
                    )


def _check_magnitudes(batch: Batch) -> None:
    """Raises FeatureTooLarge for a number of the kind that libraries refuse when they make it single precision."""
    found = []
    for column, values in zip(batch.signature.inputs, batch.columns().values(), strict=True):
        if column.kind is Kind.FLOAT:
            places = np.argwhere(np.abs(values) > _SINGLE)
            found += [(int(place[0]), column.name) for place in places[:1]]
    if found:
        row, name = min(found, key=itemgetter(0))
        raise FeatureTooLarge(most="3.4e38", column=name, row=row if len(batch) > 1 else None)


def _check_finite(values: NDArray[np.float64], count: int) -> None:
    """Raises PredictionNotFinite."""
    if values.size <= _FEW and all(map(isfinite, values.ravel().tolist())):
        return
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

    def load(self, name: str, version: str, read: Any = None) -> Served:
        """Load a version, which is not live yet, of what was `read` or is read now. Raises ModelRefused."""
        return Served(name, version, self._loader.load(name, version, read), max_rows=self._max_rows)

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

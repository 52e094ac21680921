"""The models that answer requests, by name."""

from asyncio import Future
from collections.abc import Callable, Mapping
from math import isfinite
from operator import itemgetter
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from weighbridge.application.ports import Scorer
from weighbridge.domain.batch import DTYPES, Batch, Outputs, Rows
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
from weighbridge.domain.signature import Kind, Signature

_SINGLE = float(np.finfo(np.float32).max)

_STATED = (FeatureTooLarge, ModelCrashed, ModelUnavailable)

_FEW = 16  # numbers, which Python looks at sooner than numpy does


ResultT = TypeVar("ResultT")
OtherT = TypeVar("OtherT")


class Later(Generic[ResultT]):
    """An answer that is on its way: once `outputs` are done, however that went, `finish` gives it or raises."""

    def __init__(self, outputs: Future[Outputs], finish: Callable[[], ResultT]) -> None:
        self.outputs = outputs
        self.finish = finish

    def then(self, change: Callable[[ResultT], OtherT]) -> "Later[OtherT]":
        """The same with something done to the answer."""
        return Later(self.outputs, lambda: change(self.finish()))


class Served:
    """A version of a model that answers requests. Whoever holds it may use it, whatever becomes live meanwhile."""

    def __init__(self, name: str, version: str, scorer: Scorer, *, max_rows: int) -> None:
        self.name = name
        self.version = version
        self.signature: Signature = scorer.signature
        self._ask = scorer.ask
        self.max_rows = max_rows
        self._vectors = [(place, column) for place, column in enumerate(self.signature.inputs) if column.width]
        self._outputs = [(column, np.dtype(DTYPES[column.kind])) for column in self.signature.outputs]
        self._floats = [place for place, column in enumerate(self.signature.outputs) if column.kind is Kind.FLOAT]

    def __call__(self, rows: Rows) -> "Outputs | Later[Outputs]":
        """Score rows that fit the signature, now or later.

        Raises TooManyRows, FeatureCountMismatch; now or later FeatureTooLarge, InferenceFailed, PredictionNotFinite;
        later ModelCrashed, ModelUnavailable.
        """
        count = len(rows)
        if count > self.max_rows:
            raise TooManyRows(limit=self.max_rows, got=count)
        if self._vectors:
            self._check_widths(rows)
        try:
            outputs = self._ask(rows)
            if isinstance(outputs, Future):
                return self._later(rows, outputs)
            self._check_types(outputs, count)
        except _STATED:
            raise
        except Exception as exc:
            raise self._failed(rows) from exc
        for place in self._floats:
            _check_finite(outputs[place], count)
        return outputs

    def _later(self, rows: Rows, outputs: Future[Outputs]) -> "Later[Outputs]":
        return Later(outputs, lambda: self._found(rows, outputs))

    def _found(self, rows: Rows, outputs: Future[Outputs]) -> Outputs:
        """What there is of outputs that have come."""
        try:
            found = outputs.result()
            self._check_types(found, len(rows))
        except _STATED:
            raise
        except Exception as exc:
            raise self._failed(rows) from exc
        for place in self._floats:
            _check_finite(found[place], len(rows))
        return found

    def _failed(self, rows: Rows) -> InferenceFailed:
        """The error, unless the rows are to blame. Raises FeatureTooLarge."""
        _check_magnitudes(Batch(self.signature, rows))
        return InferenceFailed()

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


class LiveModels:
    """Which version of each model is live. For the event loop alone."""

    def __init__(self) -> None:
        self.live: Mapping[str, Served] = {}

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

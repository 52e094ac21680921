"""Rows on their way into a model, and what comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from weighbridge.domain.signature import Kind, Signature

Rows = Sequence[Sequence[Any]] | NDArray[np.float64]

Outputs = tuple[NDArray[Any], ...]
"""For each output of a signature, in its order, an array of shape (n,) or (n, width).

The types of the elements are float64, int64, bool, and object for strings.
"""

DTYPES: dict[Kind, DTypeLike] = {
    Kind.INT: np.int64,
    Kind.FLOAT: np.float64,
    Kind.BOOL: np.bool_,
    Kind.STRING: np.object_,
}
"""The types of the elements of a column without nulls."""


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Batch:
    """n rows that fit the inputs of `signature`.

    Each of `rows` has one value for each input, None where that is null, and a list where it is a vector. For a
    signature that takes one vector, rows are the vectors themselves, or a matrix of shape (n, width).
    """

    signature: Signature
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def matrix(self, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """All as numbers, of shape (n, sum of widths): NaN for null, a category's index for a category, 0 and 1.

        Raises ValueError for strings that are no categories.
        """
        inputs, rows = self.signature.inputs, self.rows
        if self.signature.vector is None:
            if any(column.width is not None for column in inputs):
                return np.column_stack([self._numbers(place, dtype) for place in range(len(inputs))])
            rows = self._coded()
        matrix = np.asarray(rows, dtype)
        return matrix if len(rows) else matrix.reshape(0, self.signature.width)  # no rows have a width, too

    def columns(self) -> dict[str, NDArray[Any]]:
        """An array for each input, of shape (n,) or (n, width).

        int64, float64, bool, or object for strings; integers that may be null are float64 with NaN, booleans object.
        """
        return {column.name: self._column(place) for place, column in enumerate(self.signature.inputs)}

    def _values(self, place: int) -> Any:
        if self.signature.vector is not None:
            return self.rows
        return [row[place] for row in self.rows]

    def _column(self, place: int) -> NDArray[Any]:
        column = self.signature.inputs[place]
        dtype = DTYPES[column.kind]
        if column.nullable:
            dtype = np.float64 if column.kind in (Kind.INT, Kind.FLOAT) else np.object_
        values = np.asarray(self._values(place), dtype)
        return values if column.width is None else values.reshape(len(self.rows), column.width)

    def _numbers(self, place: int, dtype: DTypeLike) -> NDArray[Any]:
        column, codes = self.signature.inputs[place], self.signature.codes[place]
        values = self._values(place)
        if codes is not None:
            values = [codes.get(value) for value in values]
        return np.asarray(values, dtype).reshape(len(self.rows), column.width or 1)

    def _coded(self) -> Rows:
        """The rows, with the index of each category in its place."""
        codes = self.signature.codes
        if not any(codes):
            return self.rows
        return [
            [value if code is None else code.get(value) for value, code in zip(row, codes, strict=True)]
            for row in self.rows
        ]

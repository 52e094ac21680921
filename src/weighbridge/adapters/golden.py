"""Golden rows: rows whose predictions are known, and whether a model still predicts them."""

import operator
from collections.abc import Mapping, Sequence
from math import isclose
from typing import Any, NamedTuple

from weighbridge.adapters.manifest import Manifest, Value, row_of
from weighbridge.domain.batch import DTYPES, Outputs
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature

# Another processor or version of a library adds the same numbers in another order, and many models do so in float32,
# which rounds by 6e-8: a sum of hundreds stays within these, and no other model gives the same rows as close.
_RELATIVE = 1e-5
_ABSOLUTE = 1e-6
_TYPES = {Kind.INT: int, Kind.BOOL: bool, Kind.STRING: str}


class Difference(NamedTuple):
    """An output of a golden row, by its place in the manifest, that a model gives otherwise."""

    place: int
    output: str
    expected: Any
    got: Any


class GoldenRows:
    """The golden rows of a manifest. Raises ModelRefused for those that do not fit its signature."""

    def __init__(self, manifest: Manifest, signature: Signature) -> None:
        self._goldens = manifest.golden
        self._outputs = signature.outputs
        exact = manifest.runtime == "linear"  # it adds in one order, wherever it runs
        self._is_close = operator.eq if exact else _is_close
        for index, golden in enumerate(manifest.golden):
            _check_cells(f"golden.{index}.input", signature.inputs, golden.input)
            _check_cells(f"golden.{index}.output", signature.outputs, golden.output)
        self.rows = [row_of(signature, golden.input) for golden in manifest.golden]

    def difference(self, places: Sequence[int], outputs: Outputs) -> Difference | None:
        """The first difference, if any, of the `outputs` for the golden rows at these places, asked for together.

        Raises ModelRefused for outputs of other types or shapes than the signature states.
        """
        check_count(outputs, len(places))
        for column, values in zip(self._outputs, outputs, strict=True):
            shape = (len(places),) if column.width is None else (len(places), column.width)
            if values.shape != shape or values.dtype != DTYPES[column.kind]:
                raise ModelRefused(
                    f"expected {column.name} of type {column.kind} and shape {shape},"
                    f" got {values.dtype} and {values.shape}"
                )
            for place, value in zip(places, values.tolist(), strict=True):
                expected = self._goldens[place].output[column.name]
                if not self._agree(expected, value):
                    return Difference(place, column.name, expected, value)
        return None

    def _agree(self, expected: Any, got: Any) -> bool:
        if isinstance(expected, list):
            return all(map(self._agree, expected, got))
        if isinstance(got, float):
            return self._is_close(expected, got)
        return bool(expected == got)


def check_count(outputs: Outputs, count: int) -> None:
    """Raises ModelRefused for outputs that are not of so many rows."""
    for values in outputs:
        if values.shape[:1] != (count,):
            got = len(values) if values.ndim else "one for all"
            raise ModelRefused(
                f"expected {count} predictions, one for each row, got {got}; a model has to take any number of rows "
                "and predict each of them"
            )


def _is_close(expected: float, got: float) -> bool:
    return isclose(expected, got, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def _check_cells(place: str, columns: tuple[Column, ...], cells: Mapping[str, Value]) -> None:
    if {*cells} - {column.name for column in columns}:
        raise ModelRefused(f"{place}: expected only the names of the signature")
    for column in columns:
        if not _fits(column, cells.get(column.name)):
            raise ModelRefused(f"{place}.{column.name}: expected {_in_words(column)}")


def _fits(column: Column, cell: Value | None) -> bool:
    if cell is None:
        return column.nullable
    if column.width is None:
        return _is_of_kind(column, cell)
    return isinstance(cell, list) and len(cell) == column.width and all(_is_of_kind(column, item) for item in cell)


def _is_of_kind(column: Column, value: object) -> bool:
    if column.kind is Kind.FLOAT:
        return type(value) in (int, float)
    if column.categories is not None:
        return value in column.categories
    return type(value) is _TYPES[column.kind]


def _in_words(column: Column) -> str:
    what = "one of its categories" if column.categories is not None else f"a value of type {column.kind}"
    return what if column.width is None else f"{column.width} of type {column.kind}"

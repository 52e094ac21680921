"""What a model takes, told from an example of it: a data frame, or rows of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from math import inf
from typing import Any

import numpy as np

from weighbridge.domain.batch import Rows
from weighbridge.domain.errors import InvalidSignature, ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature

VECTOR = "features"
"""The name of the input of a model that takes one vector."""

_ANY = (Column(name="prediction", kind=Kind.FLOAT),)


@dataclass(frozen=True, slots=True)
class Example:
    """The inputs of a model, and rows for them as `Batch` wants them; there is at least one."""

    inputs: tuple[Column, ...]
    rows: Rows


def infer(example: Any) -> Example:
    """Inputs and rows of a pandas DataFrame, of an array of shape (n, width), or of a list of rows of numbers.

    A DataFrame gives named columns: booleans, integers, floats, texts, and categories that are texts; one that holds a
    null is nullable, and least and greatest finite number are noted. All else gives one vector, `features`. Raises
    ModelRefused.
    """
    named = hasattr(example, "columns") and hasattr(example, "iloc")
    described = _named(example) if named else _vector(example)
    if not len(described.rows):
        raise ModelRefused("expected an example of one or more rows, got none")
    return described


def _vector(example: Any) -> Example:
    try:
        matrix = np.asarray(example)
    except ValueError as exc:  # rows of different lengths
        raise ModelRefused("the rows of the example have different lengths") from exc
    match matrix.shape:
        case (_, width) if width and matrix.dtype.kind in "biuf":
            rows = matrix.astype(np.float64)
        case shape:
            raise ModelRefused(
                "expected a pandas DataFrame, or numbers of shape (n, width), as the example, "
                f"got {matrix.dtype} of shape {shape}"
            )
    if not np.isfinite(rows).all():
        raise ModelRefused("the example holds numbers that are not finite; a pandas DataFrame may hold nulls")
    return Example((Column(name=VECTOR, kind=Kind.FLOAT, width=width),), rows)


def _named(frame: Any) -> Example:
    names = list(frame.columns)
    columns, cells = [], []
    try:
        for place, name in enumerate(names):
            if not isinstance(name, str) or not name:
                got = f"{name!r} of type {type(name).__name__}"
                raise ModelRefused(f"names of columns must be texts, got {got}; rename them before the fit")
            column, values = _described(name, frame.iloc[:, place])
            columns.append(column)
            cells.append(values)
        Signature(tuple(columns), _ANY)
    except InvalidSignature as exc:
        raise ModelRefused(f"the example: {exc}") from exc
    return Example(tuple(columns), list(zip(*cells, strict=True)))


def _described(name: str, series: Any) -> tuple[Column, list[Any]]:
    """A column of a frame, and its values as Python's own, None for null."""
    values = [
        None if null else getattr(value, "item", lambda value=value: value)()
        for value, null in zip(series.astype(object), series.isna(), strict=True)
    ]
    kind = _kind(name, series)
    numbers = [value for value in values if value is not None] if kind in (Kind.INT, Kind.FLOAT) else []
    if any(abs(number) == inf for number in numbers):
        raise ModelRefused(f"column {name} holds an infinity; it may hold finite numbers and nulls")
    column = Column(
        name=name,
        kind=kind,
        nullable=None in values,
        categories=_categories(series) if kind is Kind.STRING else None,
        minimum=float(min(numbers)) if numbers else None,
        maximum=float(max(numbers)) if numbers else None,
    )
    return column, [float(value) if kind is Kind.FLOAT and value is not None else value for value in values]


def _categories(series: Any) -> tuple[str, ...] | None:
    return tuple(series.dtype.categories) if series.dtype.name == "category" else None


_KINDS = {
    "boolean": Kind.BOOL,
    "integer": Kind.INT,
    "floating": Kind.FLOAT,
    "mixed-integer-float": Kind.FLOAT,
    "string": Kind.STRING,
}


def _kind(name: str, series: Any) -> Kind:
    pandas = import_module("pandas")
    values: Sequence[Any] = series.dtype.categories if series.dtype.name == "category" else series
    kind = _KINDS.get(pandas.api.types.infer_dtype(values, skipna=True))
    if kind is None:
        raise ModelRefused(
            f"expected booleans, numbers or texts in column {name}, got {series.dtype}; "
            "turn it into one of them before the model, in training and in serving"
        )
    return kind

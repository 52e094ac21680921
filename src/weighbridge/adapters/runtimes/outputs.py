"""What libraries give, as the arrays that a signature states."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from weighbridge.domain.signature import Column, Kind

_ACCEPTED: dict[Kind, tuple[str, DTypeLike]] = {
    Kind.FLOAT: ("fiu", np.float64),
    Kind.INT: ("iu", np.int64),
    Kind.BOOL: ("b", np.bool_),
    Kind.STRING: ("UO", np.object_),
}


def as_output(column: Column, values: Any) -> NDArray[Any]:
    """Values of an output as an array of the column's own type. Raises ValueError for those of another kind."""
    array = np.asarray(values)
    kinds, dtype = _ACCEPTED[column.kind]
    if array.dtype.kind not in kinds:
        raise ValueError(f"expected {column.name} of type {column.kind}, got {array.dtype}")
    if array.dtype.kind == "O" and not all(isinstance(value, str) for value in array.flat):
        raise ValueError(f"expected {column.name} of type {column.kind}, got objects")
    return array.astype(dtype, copy=False)


def no_rows(column: Column) -> NDArray[Any]:
    """The output for no rows at all, which some libraries refuse."""
    shape = (0,) if column.width is None else (0, column.width)
    return np.empty(shape, _ACCEPTED[column.kind][1])

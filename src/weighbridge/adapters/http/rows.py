"""Rows of numbers from bytes to a matrix, without a Python float for each."""

from functools import cache
from math import isfinite
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray

_NUMBERS_AND_SPACE = b"0123456789.eE+- \t\r\n"
_KEYS = (["instances"], ["instances", "scale_factor"])


def read_batch(body: bytes | bytearray) -> tuple[NDArray[np.float64], float] | None:
    """The matrix of shape (n, width) and the scale factor in a JSON batch, when it is one beyond doubt; else None.

    simdjson refuses what is not JSON or not a number, but it gives no places, flattens nested arrays, takes the first
    of a repeated key and passes over a byte order mark. So this only ever accepts: pydantic judges the rest.
    """
    if body[:1] != b"{":
        return None
    try:
        document: Any = _parser().parse(body)
        keys = sorted(document)
        if keys not in _KEYS:
            return None
        flat = np.frombuffer(document["instances"].as_buffer(of_type="d"))
        scale_factor = document["scale_factor"] if len(keys) > 1 else 1.0
    except (AttributeError, RuntimeError, TypeError, ValueError):  # what simdjson raises for what it does not take
        return None
    if type(scale_factor) not in (int, float) or not scale_factor > 0 or not isfinite(scale_factor):
        return None
    width = _width(body, flat.size)
    return None if width is None else (flat.reshape(-1, width), float(scale_factor))


@cache
def _parser() -> simdjson.Parser:
    """One for the process, as its buffers are large. It parses again once nothing refers to what it parsed before."""
    return simdjson.Parser()


def _width(body: bytes | bytearray, size: int) -> int | None:
    """The width of the rows, if what is left of `body` without its numbers is a list of equal rows, `size` numbers."""
    structure = body.translate(None, _NUMBERS_AND_SPACE)
    start = structure.find(b"[[") + 1
    if not start:
        return None
    row = structure[start : structure.find(b"]", start) + 1] + b","
    width = row.count(b",")
    rows = structure[start : structure.rfind(b"]]") + 1] + b","
    return width if size and rows == row * (size // width) and size % width == 0 else None

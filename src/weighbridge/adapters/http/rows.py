"""Rows of numbers from bytes to a matrix, without a Python float for each."""

from functools import cache
from math import isfinite
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray

_KEYS = (["instances"], ["instances", "scale_factor"])
_NUMBERS_AND_SPACE = b"0123456789.eE+- \t\r\n"
_NO_MARKS = bytes({*range(256)} - {*b",:[{"})
_NEITHER_MARKS_NOR_QUOTES = _NO_MARKS.replace(b'"', b"")


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
        instances = document["instances"]
        flat = np.frombuffer(instances.as_buffer(of_type="d"))
        count = len(instances)
        scale_factor = document["scale_factor"] if len(keys) > 1 else 1.0
    except (AttributeError, RuntimeError, TypeError, ValueError):  # what simdjson raises for what it does not take
        return None
    if type(scale_factor) not in (int, float) or not scale_factor > 0 or not isfinite(scale_factor):
        return None
    width, beyond = divmod(flat.size, count or 1)
    if not width or beyond or not _has_rows(body, count, width):
        return None
    return flat.reshape(count, width), float(scale_factor)


def count_rows(body: bytes | bytearray) -> int:
    """How many items a JSON array has; 0 when that is not known, as for what simdjson does not take."""
    try:
        document: Any = _parser().parse(body)
        return len(document)
    except (RuntimeError, ValueError):
        return 0


def count_marks(body: bytes | bytearray) -> tuple[int, int]:
    """How many commas, colons and opening brackets there are, in texts as well; and how many of these are brackets."""
    marks = body.translate(None, _NO_MARKS)
    return len(marks), marks.count(b"[") + marks.count(b"{")


def without_texts(body: bytes | bytearray) -> bytes:
    """The commas, colons and opening brackets that are not in texts, whether or not it is JSON."""
    marks = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NEITHER_MARKS_NOR_QUOTES)
    codes = np.frombuffer(marks, np.uint8)
    is_quote = codes == ord('"')
    outside: bytes = codes[~(is_quote | np.logical_xor.accumulate(is_quote))].tobytes()
    return outside


@cache
def _parser() -> simdjson.Parser:
    """One for the process, as its buffers are large. It parses again once nothing refers to what it parsed before."""
    return simdjson.Parser()


def _has_rows(body: bytes | bytearray, count: int, width: int) -> bool:
    """Whether the batch is written as `count` rows of `width`, by what is left of it without its numbers."""
    structure = body.translate(None, _NUMBERS_AND_SPACE)
    rows = (b"[%b]," % (b"," * (width - 1))) * count
    start = structure.find(b"[[") + 1
    return start > 0 and structure[start : start + len(rows)] == rows[:-1] + b"]"

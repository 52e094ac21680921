"""The values of an ONNX model's large tensors, which ONNX Runtime is given beside the model instead of in it.

What it parses it copies: to open a model that holds its weights, it writes to four times as much memory as they take.
Values that lie in memory already it copies once, before it packs them for its kernels. Only those are taken out that
are beyond doubt: of initializers of the graph itself, and in one run of bytes.
"""

import ctypes
import math
import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.runtimes.protobuf import (
    LENGTH_DELIMITED,
    Field,
    fields,
    heading,
    looked_into,
    varint,
)

_LARGE_BYTES = 1024**2  # what is smaller is not worth it, and shapes, say, are asked for while the model is parsed

_GRAPH = (7, LENGTH_DELIMITED)  # of a ModelProto
_INITIALIZER = (5, LENGTH_DELIMITED)  # of a GraphProto
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9  # of a TensorProto
_ELSEWHERE = b"\x6a\x0d\x0a\x08location\x12\x01-\x70\x01"
"""Of a TensorProto: external_data = [{key: "location", value: "-"}], data_location = EXTERNAL."""

_DTYPES: dict[int, DTypeLike] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
}
"""What numpy has of TensorProto.DataType."""

_Parts = list[memoryview | bytes]


class _Tensor(NamedTuple):
    message: Field
    raw_data: Field
    name: str
    values: NDArray[Any]


@contextmanager
def taken_out(artefact: Artefact) -> Iterator[tuple[Artefact, dict[str, NDArray[Any]]]]:
    """An ONNX model without the values of its large tensors; and these by their names, to be read until this ends.

    Raises ModelRefused for what is no ONNX model.
    """
    with looked_into(artefact, "an ONNX model") as data:
        graphs = [field for field in fields(data, 0, len(data)) if field[:2] == _GRAPH]
        found = [(graph, list(_large(data, graph))) for graph in graphs]
    values = {tensor.name: tensor.values for _, tensors in found for tensor in tensors}
    if not values:
        yield artefact, values
        return
    whole = memoryview(data)
    try:
        slim = [_without_values(whole, graph, tensors) for graph, tensors in found]
        yield Artefact.of(*_spliced(whole, slim)), values
    finally:
        _unmap(whole)


def _large(data: mmap.mmap, graph: Field) -> Iterator[_Tensor]:
    for field in fields(data, graph.start, graph.stop):
        if field[:2] == _INITIALIZER and field.stop - field.start >= _LARGE_BYTES:
            tensor = _tensor(data, field)
            if tensor is not None:
                yield tensor


def _tensor(data: mmap.mmap, message: Field) -> _Tensor | None:
    """A tensor whose values are an array as they lie there, else None: what is wrong is for ONNX Runtime to say."""
    parts: dict[int, list[Field]] = {number: [] for number in (_DIMS, _DATA_TYPE, _NAME, _RAW_DATA)}
    for field in fields(data, message.start, message.stop):
        parts.setdefault(field.number, []).append(field)
    types = [number for field in parts[_DATA_TYPE] for number in _numbers(data, field)]
    if len(types) != 1 or types[0] not in _DTYPES or len(parts[_NAME]) != 1 or len(parts[_RAW_DATA]) != 1:
        return None
    [name], [raw_data] = parts[_NAME], parts[_RAW_DATA]
    dtype = np.dtype(_DTYPES[types[0]])
    shape = [number for field in parts[_DIMS] for number in _numbers(data, field)]
    count = math.prod(shape)
    if raw_data.stop - raw_data.start != count * dtype.itemsize:
        return None
    values = np.frombuffer(data, dtype, count, raw_data.start).reshape(shape)
    return _Tensor(message, raw_data, data[name.start : name.stop].decode(errors="replace"), values)


def _numbers(data: mmap.mmap, field: Field) -> Iterator[int]:
    """Those of a repeated field, packed or not."""
    at = field.start
    while at < field.stop:
        number, at = varint(data, at)
        yield number


def _without_values(whole: memoryview, graph: Field, tensors: Iterable[_Tensor]) -> tuple[Field, _Parts]:
    """A graph, and what is to be its content."""
    slim: list[tuple[Field, _Parts]] = [
        (message, [whole[message.start : run.tag], whole[run.stop : message.stop], _ELSEWHERE])
        for message, run, *_ in tensors
    ]
    return graph, _spliced(whole[: graph.stop], slim, graph.start)


def _spliced(whole: memoryview, changed: Iterable[tuple[Field, _Parts]], at: int = 0) -> _Parts:
    """What is there from a place on, with other content in some fields."""
    spliced: _Parts = []
    for field, content in changed:
        spliced += [whole[at : field.tag], heading(field.number, sum(map(len, content))), *content]
        at = field.stop
    return [*spliced, whole[at:]]


def _unmap(whole: memoryview) -> None:
    """Give the pages of a mapping back while other threads run: Python would have them wait, 20 ms for 500 MB."""
    address = ctypes.c_void_p(np.frombuffer(whole, np.uint8).ctypes.data)
    ctypes.CDLL(None).madvise(address, ctypes.c_size_t(len(whole)), mmap.MADV_DONTNEED)

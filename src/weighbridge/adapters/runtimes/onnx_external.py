"""Whether an ONNX model wants data from other files, told from its bytes: the libraries open them while they load.

Only what a reference can be in is walked: megabytes of weights are skipped, and nodes are walked only if they hold the
word that no reference is without.
"""

import mmap
from collections.abc import Iterator

from weighbridge.adapters.artefact import Artefact
from weighbridge.domain.errors import ModelRefused

_EXTERNAL_DATA = 13
"""The field of a tensor that says where its data is."""

_KEY = b"location"
"""The key of the path in it."""

MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
"""The messages of ONNX that a tensor can be in, and the fields by which they hold one another."""

_SEARCHED = {"NodeProto", "FunctionProto"}
_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}
"""The bytes of the kinds of fields that always have the same number of them."""
_SEVEN_BITS, _MORE = 0x7F, 0x80


def refuse_external_data(artefact: Artefact) -> None:
    """Raises ModelRefused for a model with data in other files, and for what is no ONNX model at all."""
    try:
        with artefact.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            external = _refers(data)
    except (LookupError, ValueError) as exc:  # mmap takes no empty file, either
        raise ModelRefused("not an ONNX model") from exc
    if external:
        raise ModelRefused(
            "the ONNX model has external data; save it as one file: onnx.save_model(onnx.load(FILE), OTHER_FILE)"
        )


def _refers(artefact: mmap.mmap) -> bool:
    waiting = [("ModelProto", 0, len(artefact))]
    while waiting:
        message, start, end = waiting.pop()
        if message in _SEARCHED and artefact.find(_KEY, start, end) < 0:
            continue
        for field, begin, stop in _fields(artefact, start, end):
            if message == "TensorProto" and field == _EXTERNAL_DATA:
                return True
            inner = MESSAGES[message].get(field)
            if inner is not None:
                waiting.append((inner, begin, stop))
    return False


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number, the start and the end of each length-delimited field of a message; other fields are skipped.

    Raises LookupError or ValueError for bytes that are no message. The format:
    https://protobuf.dev/programming-guides/encoding.
    """
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(data, at)
            yield tag >> 3, at, at + length
            at += length
        elif kind == _VARINT:
            _, at = _varint(data, at)
        else:
            at += _FIXED[kind]
    if at != end:
        raise ValueError("a field that is longer than its message")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises LookupError where the data ends first."""
    value = shift = 0
    while data[at] & _MORE:
        value |= (data[at] & _SEVEN_BITS) << shift
        at += 1
        shift += 7
    return value | data[at] << shift, at + 1

"""Whether an ONNX model wants data from other files, told from its bytes: the libraries open them while they load.

Only what a reference can be in is walked: megabytes of weights are skipped, and nodes are walked only if they hold the
word that no reference is without.
"""

import mmap

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.runtimes.protobuf import LENGTH_DELIMITED, fields, looked_into
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


def refuse_external_data(artefact: Artefact) -> None:
    """Raises ModelRefused for a model with data in other files, and for what is no ONNX model at all."""
    with looked_into(artefact, "an ONNX model") as data:
        external = _refers(data)
    if external:
        raise ModelRefused(
            "expected an ONNX model in one file, got one with external data; save it as one: "
            "onnx.save_model(onnx.load(FILE), OTHER_FILE)"
        )


def _refers(artefact: mmap.mmap) -> bool:
    waiting = [("ModelProto", 0, len(artefact))]
    while waiting:
        message, start, end = waiting.pop()
        if message in _SEARCHED and artefact.find(_KEY, start, end) < 0:
            continue
        for field in fields(artefact, start, end):
            if field.kind != LENGTH_DELIMITED:
                continue
            if message == "TensorProto" and field.number == _EXTERNAL_DATA:
                return True
            inner = MESSAGES[message].get(field.number)
            if inner is not None:
                waiting.append((inner, field.start, field.stop))
    return False

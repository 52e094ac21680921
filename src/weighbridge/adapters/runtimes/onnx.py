"""ONNX models, by ONNX Runtime: on the CPU, from one file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import DTypeLike, NDArray

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import Manifest
from weighbridge.adapters.runtimes import Packed, Trust
from weighbridge.adapters.runtimes.onnx_external import refuse_external_data
from weighbridge.application.ports import Model
from weighbridge.domain.batch import DTYPES, Batch, Outputs
from weighbridge.domain.errors import FeatureTooLarge, ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature

Feed = Callable[[Batch], dict[str, NDArray[Any]]]

_SILENT = 4
"""Of the severities of ONNX Runtime's log the last: what is wrong is raised, too."""

_TYPES: dict[str, DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}

_FITS = {Kind.FLOAT: "f", Kind.INT: "fi", Kind.BOOL: "fib", Kind.STRING: "O"}
"""Which kinds of tensors take a column without loss."""

_NAMES = {
    "output_label": "label",
    "output_probability": "probabilities",
}
"""What converters call the outputs of a classifier, and what they are called here."""


class OnnxModel:
    """A graph; its outputs are those of the signature, in that order."""

    def __init__(self, signature: Signature, session: Any) -> None:
        self.signature = signature
        self._session = session
        self._feed = _feed(signature, session.get_inputs())
        self._stated = [(np.dtype(DTYPES[column.kind]), column.width) for column in signature.outputs]
        self._alone = any(tensor.shape[0] == 1 for tensor in session.get_inputs())

    def predict(self, batch: Batch) -> Outputs:
        """Score the rows: all at once, or where the graph was exported for one row, one by one."""
        count = len(batch)
        if not count:
            return self._settled([[] for _ in self._stated], 0)
        feed = self._feed(batch)
        if count == 1 or not self._alone:
            return self._settled(self._session.run(None, feed), count)
        rows = [
            self._settled(self._session.run(None, {name: cells[i : i + 1] for name, cells in feed.items()}), 1)
            for i in range(count)
        ]
        return tuple(map(np.concatenate, zip(*rows, strict=True)))

    def _settled(self, found: list[Any], count: int) -> Outputs:
        outputs = []
        for (dtype, width), values in zip(self._stated, found, strict=True):
            settled = _array(values).astype(dtype, copy=False)
            shape = (count,) if width is None else (count, width)
            # of another number of rows nobody can tell which row is whose: those who asked refuse it
            if settled.shape != shape and settled.shape[:1] == (count,):
                settled = settled.reshape(shape)
            outputs.append(settled)
        return tuple(outputs)


def takes(model: object) -> bool:
    """Whether it is the path of a file, the bytes of one, or a ModelProto."""
    return isinstance(model, str | Path | bytes) or type(model).__name__ == "ModelProto"


def pack(model: Any, inputs: tuple[Column, ...]) -> Packed:
    """A model in one file. Raises ModelRefused, or what ONNX Runtime does."""
    if isinstance(model, str | Path):
        artefact = Path(model).read_bytes()
    else:
        artefact = model if isinstance(model, bytes) else model.SerializeToString()
    session = _session(Artefact.of(artefact))
    row = tuple(_least(column) for column in inputs)
    trial = Signature(inputs, (Column(name="prediction", kind=Kind.FLOAT),))
    feed = _feed(trial, session.get_inputs())(Batch(trial, row if trial.vector else [row]))
    try:
        found = session.run(None, feed)
    except Exception as exc:
        raise ModelRefused(f"the model does not take one row of its inputs: {exc}") from exc
    names = [_NAMES.get(output.name, output.name) for output in session.get_outputs()]
    if len(names) == 1:
        names = ["prediction"]
    outputs = [_output(name, values) for name, values in zip(names, found, strict=True)]
    maps = [values for values in found if isinstance(values, list)]
    if maps and isinstance(next(iter(maps[0][0])), str) and outputs[0].kind is Kind.STRING:
        outputs[0] = Column(name=outputs[0].name, kind=Kind.STRING, categories=tuple(maps[0][0]))
    return Packed(artefact, "model.onnx", tuple(outputs), {"onnxruntime": onnxruntime.__version__})


def load(artefact: Artefact, manifest: Manifest, trust: Trust) -> Model:
    """The model in an ONNX file. Raises ModelRefused, or what ONNX Runtime does."""
    signature = manifest.signature()
    session = _session(artefact, trust.threads)
    if len(session.get_outputs()) != len(signature.outputs):
        raise ModelRefused(f"expected {len(session.get_outputs())} outputs, got {len(signature.outputs)}")
    return OnnxModel(signature, session)


def _session(artefact: Artefact, threads: int = 1) -> Any:
    refuse_external_data(artefact)
    onnxruntime.set_default_logger_severity(_SILENT)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.load_model_format", "ONNX")  # the format that is looked into
    # From bytes it would parse with the interpreter locked, half a second for 500 MB; from a file it does not.
    return onnxruntime.InferenceSession(str(artefact.path), options, providers=["CPUExecutionProvider"])


def _feed(signature: Signature, tensors: list[Any]) -> Feed:
    """What makes of a batch the inputs of a graph. Raises ModelRefused when they do not match."""
    for tensor in tensors:
        if tensor.type not in _TYPES or len(tensor.shape) not in (1, 2):
            raise ModelRefused(f"expected input {tensor.name} of shape (n, width), got {tensor.type} of {tensor.shape}")
        if tensor.shape[0] != 1 and isinstance(tensor.shape[0], int):
            raise ModelRefused(
                f"expected a free batch dimension, or 1, for input {tensor.name}, got {tensor.shape[0]}; export the "
                "model with dynamic axes"
            )
    columns = {column.name: column for column in signature.inputs}
    if columns.keys() == {tensor.name for tensor in tensors}:
        return _ByName({tensor.name: _fitting(tensor, columns[tensor.name]) for tensor in tensors}, tensors)
    if len(tensors) == 1:
        [tensor] = tensors
        width = sum(column.width or 1 for column in signature.inputs)
        dtypes = [_fitting(tensor, column, width) for column in signature.inputs]
        return _AsMatrix(tensor, dtypes[0], signature)
    names = ", ".join(tensor.name for tensor in tensors)
    raise ModelRefused(f"the columns must have the names of the model's inputs: {names}")


class _ByName:
    def __init__(self, dtypes: Mapping[str, DTypeLike], tensors: list[Any]) -> None:
        self._inputs = [(tensor.name, dtypes[tensor.name], len(tensor.shape)) for tensor in tensors]

    @np.errstate(over="ignore")  # what is too large for a tensor's type becomes an infinity
    def __call__(self, batch: Batch) -> dict[str, NDArray[Any]]:
        columns = batch.columns()
        count = len(batch)
        feed = {}
        for name, dtype, rank in self._inputs:
            cells = columns[name].reshape(count, -1)
            if dtype is np.int32:
                _check_32_bits(cells, [name] * cells.shape[1])
            cells = cells.astype(dtype, copy=False)
            feed[name] = cells.ravel() if rank == 1 else cells
        return feed


class _AsMatrix:
    def __init__(self, tensor: Any, dtype: DTypeLike, signature: Signature) -> None:
        self._name = tensor.name
        self._dtype = dtype
        self._is_flat = len(tensor.shape) == 1 and signature.width == 1
        self._columns = [column.name for column in signature.inputs for _ in range(column.width or 1)]

    @np.errstate(over="ignore")  # as above
    def __call__(self, batch: Batch) -> dict[str, NDArray[Any]]:
        if self._dtype is np.object_:
            cells: NDArray[Any] = np.column_stack([*batch.columns().values()])
        else:
            if self._dtype is np.int32:
                _check_32_bits(batch.matrix(np.int64), self._columns)
            cells = batch.matrix(self._dtype)
        return {self._name: cells.ravel() if self._is_flat else cells}


def _check_32_bits(cells: NDArray[Any], columns: Sequence[str]) -> None:
    """Raises FeatureTooLarge for an integer beyond them, in a matrix whose columns belong to these inputs."""
    places = np.argwhere(cells != cells.astype(np.int32))
    if len(places):
        row, place = places[0].tolist()
        most = str(np.iinfo(np.int32).max)
        raise FeatureTooLarge(most=most, column=columns[place], row=row if len(cells) > 1 else None)


def _fitting(tensor: Any, column: Column, width: int | None = None) -> DTypeLike:
    """The type of a tensor that takes the column. Raises ModelRefused for one that does not."""
    dtype = _TYPES[tensor.type]
    kind = np.dtype(dtype).kind
    coded = width is not None and column.categories is not None and kind != "O"
    wanted = width or column.width or 1
    declared = tensor.shape[1] if len(tensor.shape) > 1 else 1
    if kind not in ("fi" if coded else _FITS[column.kind]) or (column.nullable and kind != "f"):
        nulls = " with nulls" if column.nullable else ""
        raise ModelRefused(f"expected column {column.name} to fit {tensor.type}, got {column.kind}{nulls}")
    if isinstance(declared, int) and declared != wanted:
        raise ModelRefused(f"expected {declared} values for input {tensor.name}, got {wanted}")
    return dtype


def _least(column: Column) -> Any:
    """A value that fits a column."""
    if column.kind is Kind.STRING:
        one: Any = column.categories[0] if column.categories else ""
    else:
        one = {Kind.INT: int, Kind.FLOAT: float, Kind.BOOL: bool}[column.kind](column.minimum or 0)
    return one if column.width is None else [one] * column.width


def _output(name: str, values: Any) -> Column:
    """An output of this name, as the values for one row have it. Raises ModelRefused."""
    array = _array(values)
    kind = {"f": Kind.FLOAT, "i": Kind.INT, "u": Kind.INT, "b": Kind.BOOL, "O": Kind.STRING}.get(array.dtype.kind)
    match array.shape:
        case (1,) | (1, 1):
            width = None
        case (1, many):
            width = many
        case _:
            kind = None
    if kind is None:
        raise ModelRefused(f"expected output {name} of shape (n, width), got {array.dtype} of shape {array.shape}")
    return Column(name=name, kind=kind, width=width)


def _array(values: Any) -> NDArray[Any]:
    """Values of an output as an array; of maps, as ZipMap makes them, the values in the order of their keys."""
    return np.array([list(row.values()) for row in values]) if isinstance(values, list) else values

"""Versions of models as nobody should make them: broken, hostile, or too large."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import weighbridge

WIDTH = 4
FACTORS = {"1": 1.0, "2": 2.0}
"""Of the versions that are good: what they make of a row of ones."""

_COLUMNS = f"""
inputs = [{{ name = "features", type = "float", width = {WIDTH} }}]
outputs = [{{ name = "prediction", type = "float" }}]
"""
_MB = 1024 * 1024
_LARGE = (5_000, 25_000)
_LARGE_FACTOR = _LARGE[0] * 1e-6 * _LARGE[1] * 1e-6
"""What the large model makes of a row of which the sum is 1."""


def write_good(models: Path, name: str, version: str) -> Path:
    """A linear model that gives `FACTORS[version]` for a row of ones."""
    weights = [FACTORS[version] / WIDTH] * WIDTH
    return weighbridge.package(weights, models / name / version, example=np.ones((1, WIDTH)))


def write_heavy(models: Path, name: str, *, call_ms: float = 0, row_ms: float = 0, options: str = "") -> None:
    """A model that keeps Python busy for so long, as `heavy` has it, in a runner with these options."""
    rows = ([float(number)] * WIDTH for number in (1, 2))
    golden = [_golden(row, sum(row)) for row in rows]
    costs = json.dumps([call_ms, row_ms]).encode()
    entry = 'entry = "benchmarks.torture.heavy:Heavy"\n'
    _write(models / name / "1", "python", "costs.json", costs, more=entry, golden=golden)
    rollout(models, name, options)


def rollout(models: Path, name: str, text: str) -> None:
    """Write the operator's file of a model."""
    (models / name / "rollout.toml").write_text(text, "utf-8")


def spoil(artefact: Path) -> None:
    """Change a byte of a file, in place."""
    content = bytearray(artefact.read_bytes())
    content[len(content) // 2] ^= 1
    artefact.write_bytes(content)


def write_large(models: Path, name: str, versions: Sequence[str]) -> Path:
    """An ONNX model of 500 MB, which multiplies by two matrices, under several versions; the path of its file.

    Each has a golden row of its own, so that none is proven by another.
    """
    wide, high = _LARGE
    first = numpy_helper.from_array(np.full((wide, high), 1e-6, np.float32), "first")
    second = numpy_helper.from_array(np.full((high, 1), 1e-6, np.float32), "second")
    spread = numpy_helper.from_array(np.ones((WIDTH, wide), np.float32), "spread")
    nodes = [
        helper.make_node("MatMul", ["features", "spread"], ["spreaded"]),
        helper.make_node("MatMul", ["spreaded", "first"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second"], ["prediction"]),
    ]
    model = helper.make_model(_graph(nodes, [spread, first, second]), **_OPSET).SerializeToString()
    artefact = models / name / versions[0] / "model.onnx"
    start = _start("onnx", artefact.name, model)
    for number, version in enumerate(versions):
        directory = models / name / version
        directory.mkdir(parents=True)
        if number:
            os.link(artefact, directory / artefact.name)
        else:
            artefact.write_bytes(model)
        row = [float(number)] * WIDTH
        _manifest(directory, start, _golden(row, sum(row) * _LARGE_FACTOR))
    return artefact


def write_onnx(directory: Path, model: onnx.ModelProto) -> None:
    """A version with this model in it, whatever that is; its manifest is in order."""
    _write(directory, "onnx", "model.onnx", model.SerializeToString())


_OPSET = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 9}


def _graph(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> onnx.GraphProto:
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, WIDTH])
    prediction = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])
    return helper.make_graph(nodes, "graph", [features], [prediction], tensors)


def _write(
    directory: Path, runtime: str, file: str, artefact: bytes, *, more: str = "", golden: Sequence[str] = ()
) -> None:
    directory.mkdir(parents=True)
    (directory / file).write_bytes(artefact)
    _manifest(directory, _start(runtime, file, artefact) + more, "".join(golden))


def _start(runtime: str, file: str, artefact: bytes) -> str:
    return f'runtime = "{runtime}"\nartefact = "{file}"\nsha256 = "{sha256(artefact).hexdigest()}"\n'


def _golden(row: list[float], prediction: float) -> str:
    return f"[[golden]]\ninput = {{ features = {row} }}\noutput = {{ prediction = {prediction} }}\n"


def _manifest(directory: Path, start: str, end: str = "") -> None:
    (directory / "model.toml").write_text(start + _COLUMNS + end, "utf-8")


def hostile_manifests() -> Iterator[bytes]:
    """Each takes as long to read as a manifest can, for another reason."""
    start = _start("linear", "weights.json", b"") + _COLUMNS
    for before, part, after in (
        ("[[golden]]\noutput = {}\ninput = { features = [", "[],", "] }"),  # cells of no type that there is
        ("[[golden]]\noutput = {}\ninput = { features = [", "1,", "'' ] }"),  # all but the last of one type
        ("golden = [", "{},", "]"),  # rows without a column
        ("golden = [", "1,", "]"),  # what is no row
        ("unknown = [", f"{'[' * 100}{']' * 100},", "]"),
    ):
        room = _MB - len(start + before + after) - 1
        yield f"{start}{before}{part * (room // len(part))}{after}\n".encode()


class _Run:
    """What unpickling turns into a call."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._trace),)


def write_hostile(models: Path, name: str, trace: Path) -> dict[str, str]:
    """Versions that no service should load, by what they are; code that ran would leave something at `trace`.

    The modules that some of them name lie in `code`, beside the directory of models.
    """
    root = models / name
    pickled = pickle.dumps(_Run(trace))
    external = helper.make_tensor(
        "first", TensorProto.FLOAT, [WIDTH, 1], np.ones(WIDTH, np.float32).tobytes(), raw=True
    )
    external.ClearField("raw_data")
    external.data_location = TensorProto.EXTERNAL
    external.external_data.add(key="location", value=str(models.parent / "code" / "tensors.bin"))
    multiply = helper.make_node("MatMul", ["features", "first"], ["prediction"])
    _write_code(models.parent / "code")
    makers: dict[str, Callable[[Path], None]] = {
        "a pickle in place of skops": lambda path: _write(path, "sklearn", "model.skops", pickled),
        "a pickle in place of linear JSON": lambda path: _write(path, "linear", "model.json", pickled),
        "a pickle in place of ONNX": lambda path: _write(path, "onnx", "model.onnx", pickled),
        "a pickle in place of UBJ": lambda path: _write(path, "xgboost", "model.ubj", pickled),
        "a pickle in place of LightGBM's text": lambda path: _write(path, "lightgbm", "model.txt", pickled),
        "skops that names os.system": lambda path: _write(path, "sklearn", "model.skops", _skops_of_a_command(trace)),
        "a path that leaves the directory": lambda path: _leave(path, models.parent / "code" / "tensors.bin"),
        "a symlink to an artefact": lambda path: _link_artefact(path, models / name / "1"),
        "a symlink to a version": lambda path: path.symlink_to(models / name / "1"),
        "ONNX with external data": lambda path: write_onnx(
            path, helper.make_model(_graph([multiply], [external]), **_OPSET)
        ),
        "truncated": lambda path: _truncate(path, models / name / "1"),
        "a wrong digest": lambda path: _copy_spoilt(path, models / name / "1"),
        "a loader that hangs": lambda path: _entry(path, "hostile_hangs:Model"),
        "a loader that eats memory": lambda path: _entry(path, "hostile_eats:Model"),
        "a loader that ends its process": lambda path: _entry(path, "hostile_ends:Model"),
        "a loader that crashes its process": lambda path: _entry(path, "hostile_crashes:Model"),
    }
    made = {}
    for number, (what, make) in enumerate(makers.items(), 100):
        make(root / str(number))
        made[what] = str(number)
    return made


def _write_code(directory: Path) -> None:
    """Modules as an operator might have installed them, who trusts too much."""
    directory.mkdir()
    (directory / "tensors.bin").write_bytes(np.ones(WIDTH, np.float32).tobytes())
    bodies = {
        "hangs": "while True:\n    pass",
        "eats": "eaten = []\nwhile True:\n    eaten.append(bytearray(16 * 1024 * 1024))",
        "ends": "import os\nos._exit(0)",
        "crashes": "import ctypes\nctypes.string_at(0)",
    }
    for name, body in bodies.items():
        (directory / f"hostile_{name}.py").write_text(body + "\n", "utf-8")


def _skops_of_a_command(trace: Path) -> bytes:
    schema = {
        "__class__": "system",
        "__module__": "os",
        "__loader__": "FunctionNode",
        "__id__": 1,
        "content": {"module_path": "os", "function": "system"},
        "protocol": 2,
        "_skops_version": "0.16.0",
        "command": f"mkdir {trace}",
    }
    path = trace.with_suffix(".skops")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    return path.read_bytes()


def _leave(path: Path, outside: Path) -> None:
    path.mkdir()
    way = os.path.relpath(outside, path)
    digest = sha256(outside.read_bytes()).hexdigest()
    _manifest(path, f'runtime = "linear"\nartefact = "{way}"\nsha256 = "{digest}"\n')


def _link_artefact(path: Path, good: Path) -> None:
    shutil.copytree(good, path)
    artefact = artefact_of(path)
    artefact.unlink()
    artefact.symlink_to(artefact_of(good))


def _truncate(path: Path, good: Path) -> None:
    shutil.copytree(good, path)
    artefact = artefact_of(path)
    artefact.write_bytes(artefact.read_bytes()[:-3])


def _copy_spoilt(path: Path, good: Path) -> None:
    shutil.copytree(good, path)
    spoil(artefact_of(path))


def _entry(path: Path, entry: str) -> None:
    path.mkdir()
    _manifest(path, f'runtime = "python"\nentry = "{entry}"\n')


def artefact_of(version: Path) -> Path:
    """The file beside the manifest."""
    [artefact] = [path for path in version.iterdir() if path.name != "model.toml"]
    return artefact

"""From a fitted model in a notebook to a version that the service can load: `weighbridge.package`."""

import hashlib
import os
import platform
import secrets
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.golden import GoldenRows, check_count
from weighbridge.adapters.inference import infer
from weighbridge.adapters.manifest import (
    MANIFEST,
    NAME,
    VERSION,
    About,
    ColumnSpec,
    Golden,
    Manifest,
    RuntimeName,
    Value,
)
from weighbridge.adapters.runtimes import Packed, Runtime, Trust, runtime
from weighbridge.application.catalogue import EMBEDDED
from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch, Outputs, Rows
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Signature

_GOLDEN = 5
_COMPARED = 1000

_BY_LIBRARY: tuple[RuntimeName, ...] = (
    "onnx",
    "xgboost",
    "lightgbm",
    "sklearn",
)  # XGBClassifier is scikit-learn's, too
_METHODS = {"label": "predict", "prediction": "predict", "probabilities": "predict_proba"}


def package(
    model: Any,
    directory: str | Path,
    *,
    example: Any,
    trusted_types: Sequence[str] = (),
    about: Mapping[str, str | None],
) -> Path:
    """As `weighbridge.package` says."""
    target = Path(directory).absolute()
    _check_place(target)
    told = dict(About.checked(about, "the arguments"))
    described = infer(example)
    name = _runtime_of(model)
    library = runtime(name)
    if not library.takes(model):
        raise _unknown(model)
    packed = _packed(library, model, described.inputs)
    draft = _manifest(name, packed, described.inputs, packed.outputs)
    places = _spread(len(described.rows), _COMPARED)
    places = places if len(places) > 1 else places * 2  # a model may take one row, and no more
    rows = [described.rows[place] for place in places]
    chosen = _spread(len(rows), _GOLDEN)
    with warnings.catch_warnings():  # a runtime that loads may silence its library, in this process too
        loaded = library.load(Artefact.of(packed.artefact), draft, Trust(types=tuple(trusted_types)))
        outputs = _predict(loaded, draft.signature(), rows)
        columns = tuple(map(_as_wide_as, packed.outputs, outputs))
        signature = Signature(described.inputs, columns)
        golden = [_golden(signature, rows, outputs, place) for place in chosen]
        manifest = _manifest(name, packed, described.inputs, columns).model_copy(update={"golden": golden, **told})
        _check_apart(loaded, manifest, [places[place] for place in chosen])
    given = example.iloc[places] if hasattr(example, "iloc") else np.asarray(example)[places]
    _compare(model, given, {column.name: values for column, values in zip(columns, outputs, strict=True)})
    _write(target, {packed.file: packed.artefact, MANIFEST: manifest.render()})
    return target


def _packed(library: Runtime, model: Any, inputs: tuple[Column, ...]) -> Packed:
    try:
        return library.pack(model, inputs)
    except (ModelRefused, OSError):  # a file that is not there says so itself
        raise
    except Exception as exc:
        raise ModelRefused(f"{type(model).__name__} cannot be packaged; is it fitted? {exc}") from exc


def _manifest(name: RuntimeName, packed: Packed, inputs: tuple[Column, ...], outputs: tuple[Column, ...]) -> Manifest:
    return Manifest(
        runtime=name,
        artefact=packed.file,
        sha256=hashlib.sha256(packed.artefact).hexdigest(),
        inputs=[ColumnSpec.of(column) for column in inputs],
        outputs=[ColumnSpec.of(column) for column in outputs],
        libraries={"python": platform.python_version(), **packed.libraries},
    )


def _as_wide_as(column: Column, values: NDArray[Any]) -> Column:
    """An output as wide as what the model gives: of several targets it gives a vector."""
    return replace(column, width=None if values.ndim == 1 else values.shape[1])


def _check_place(target: Path) -> None:
    name, version = target.parent.name, target.name
    if not NAME.fullmatch(name) or not VERSION.fullmatch(version):
        raise ModelRefused(f"expected a directory NAME/VERSION, such as models/churn/1, got {name}/{version}")
    if name == EMBEDDED.name:
        raise ModelRefused(f"the name {name} is taken by the embedded model; choose another")
    if os.path.lexists(target):
        raise _is_there(target)


def _is_there(target: Path) -> ModelRefused:
    return ModelRefused(f"{target} exists, and versions are never overwritten; take the next number")


def _unknown(model: object) -> ModelRefused:
    kind = type(model)
    return ModelRefused(
        "expected a model of scikit-learn, XGBoost or LightGBM, an ONNX file, or a vector of weights, "
        f"got {kind.__module__}.{kind.__qualname__}"
    )


def _runtime_of(model: object) -> RuntimeName:
    libraries = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    for name in _BY_LIBRARY:
        if name in libraries:
            return name
    return "onnx" if isinstance(model, str | Path) else "linear"


def _spread(count: int, most: int) -> list[int]:
    """Places of at most `most` of `count` rows, from the first to the last."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, most))})


def _predict(model: Model, signature: Signature, rows: Rows) -> Outputs:
    """What the model gives for all rows, once it has taken the first alone and twice."""
    unfit = "The model does not take the example"
    _ask(model, signature, rows[:1], unfit)
    _ask(
        model,
        signature,
        [rows[0]] * 2,
        "The model takes one row but not two, as if a batch size were fixed inside; export it for any number of rows",
    )
    outputs = _ask(model, signature, rows, unfit)
    if any(values.dtype == np.float64 and not np.isfinite(values).all() for values in outputs):
        raise ModelRefused("The predictions for the example are not all finite")
    return outputs


def _check_apart(model: Model, manifest: Manifest, places: list[int]) -> None:
    """That golden rows, which are at these places of the example, get alone and in twos what they got among all."""
    signature = manifest.signature()
    golden = GoldenRows(manifest, signature)
    for asked in (*([index] for index in range(len(places))), [0, 1]):
        how = "alone" if len(asked) == 1 else "beside one other"
        unfit = f"The model takes the example as a whole, but not row {places[asked[0]]} of it {how}"
        found = golden.difference(asked, _ask(model, signature, [golden.rows[index] for index in asked], unfit))
        if found is not None:
            raise ModelRefused(
                f"The model gives row {places[found.place]} of the example, counted from 0, another {found.output} "
                f"{how} than together with the others. It must depend on its own row only: take out what looks at the "
                "batch, such as its mean"
            )


def _ask(model: Model, signature: Signature, rows: Rows, refusal: str) -> Outputs:
    try:
        outputs = model.predict(Batch(signature, rows))
    except Exception as exc:
        raise ModelRefused(f"{refusal}: {exc}") from exc
    check_count(outputs, len(rows))
    return outputs


def _compare(model: Any, example: Any, outputs: dict[str, NDArray[Any]]) -> None:
    """That what was packed predicts as the model does, where that has scikit-learn's methods."""
    if not hasattr(model, "get_params"):
        return
    for name in outputs.keys() & _METHODS.keys():
        ours, theirs = outputs[name], np.asarray(getattr(model, _METHODS[name])(example))
        close = ours.dtype == np.float64 and np.issubdtype(theirs.dtype, np.number)
        same = np.allclose(ours, theirs, rtol=1e-5, atol=1e-6) if close else np.array_equal(ours, theirs)
        if not same or ours.shape != theirs.shape:
            raise ModelRefused(
                f"The packaged model and the model itself differ in the {name} for the example; a null reaches the "
                "model as NaN, so fit it with NaN in place of None"
            )


def _golden(signature: Signature, rows: Rows, outputs: Outputs, place: int) -> Golden:
    row = rows[place]
    cells = [row] if signature.vector is not None else row
    return Golden(
        input={
            column.name: _plain(value)
            for column, value in zip(signature.inputs, cells, strict=True)
            if value is not None
        },
        output={column.name: _plain(values[place]) for column, values in zip(signature.outputs, outputs, strict=True)},
    )


def _plain(value: Any) -> Value:
    plain: Value = np.asarray(value, object).tolist() if not hasattr(value, "tolist") else value.tolist()
    return plain


def _write(target: Path, files: dict[str, bytes]) -> None:
    """Write a directory that is there as a whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{secrets.token_hex(8)}"
    draft.mkdir()
    try:
        for name, content in files.items():
            with (draft / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        draft.rename(target)
    except OSError as exc:
        shutil.rmtree(draft)
        raise (_is_there(target) if target.exists() else exc) from exc

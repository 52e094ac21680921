"""Cases of models that have scikit-learn's methods, and how a runtime is asked without `weighbridge.package`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tests.unit.adapters.runtimes.case import Case
from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import ColumnSpec, Manifest, RuntimeName
from weighbridge.adapters.runtimes import Packed, Trust, runtime
from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.signature import Column, Kind

Fitted = tuple[Any, Any, Any]
"""A model, what it was fitted to, and other rows."""

METHODS = {"label": "predict", "prediction": "predict", "probabilities": "predict_proba"}

CLASSIFIED = ("label", "probabilities")


def case(name: str, fitted: Callable[[], Fitted], *outputs: str) -> Case:
    """The case of a fitted estimator, which says itself what is expected."""
    return Case(
        name,
        lambda: fitted()[:2],
        lambda: as_json(fitted()[2]),
        lambda: {output: getattr(fitted()[0], METHODS[output])(fitted()[2]) for output in outputs},
    )


def as_json(rows: Any) -> list[Any]:
    """Rows of a matrix or of a data frame."""
    if isinstance(rows, np.ndarray):
        return list(rows.tolist())
    return [{name: None if pd.isna(cell) else cell for name, cell in row.items()} for row in rows.to_dict("records")]


def split(rows: Any, target: Any) -> tuple[Any, Any, Any]:
    """Three rows of four, their targets, and the fourth."""
    held = np.arange(len(rows)) % 4 == 3
    return rows[~held], target[~held], rows[held]


def vector(width: int) -> tuple[Column, ...]:
    """The input of what takes one vector."""
    return (Column(name="features", kind=Kind.FLOAT, width=width),)


def manifest(name: RuntimeName, inputs: tuple[Column, ...], outputs: Sequence[Column]) -> Manifest:
    """A manifest of these columns; nobody looks at its digest."""
    return Manifest(
        runtime=name,
        artefact="model",
        sha256="0" * 64,
        inputs=[ColumnSpec.of(column) for column in inputs],
        outputs=[ColumnSpec.of(column) for column in outputs],
    )


def reloaded(name: RuntimeName, model: Any, inputs: tuple[Column, ...]) -> tuple[Packed, Model]:
    """A model packed, and loaded from that."""
    library = runtime(name)
    assert library.takes(model)
    packed = library.pack(model, inputs)
    return packed, library.load(Artefact.of(packed.artefact), manifest(name, inputs, packed.outputs), Trust())


def predict(model: Model, rows: Any) -> Outputs:
    """What a model says of rows."""
    return model.predict(Batch(model.signature, rows))

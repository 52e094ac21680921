"""Vectors of weights: `{"weights": [0.25, -0.5]}` as JSON. One row gives the same bits alone and in a batch."""

from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.inference import VECTOR
from weighbridge.adapters.manifest import Manifest
from weighbridge.adapters.runtimes import Packed, Trust
from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import InvalidWeights, ModelRefused
from weighbridge.domain.scoring import score, score_rows
from weighbridge.domain.signature import Column, Kind, Signature
from weighbridge.domain.weights import Weights

_OUTPUTS = (Column(name="prediction", kind=Kind.FLOAT),)


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    weights: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]


class LinearModel:
    """The dot product of a row and the weights."""

    def __init__(self, signature: Signature, weights: Weights) -> None:
        self.signature = signature
        self._weights = weights

    def predict(self, batch: Batch) -> Outputs:
        """Score the rows, each from left to right."""
        rows = batch.rows
        if len(rows) == 1 and isinstance(rows[0], list):  # to make a matrix of one row takes ten times as long
            return (np.array([score(rows[0], self._weights, 1.0)]),)
        return (score_rows(batch.matrix(), self._weights, 1.0),)


def takes(model: object) -> bool:
    """Whether it is a list, a tuple or an array of one dimension."""
    return isinstance(model, list | tuple) or (isinstance(model, np.ndarray) and model.ndim == 1)


def pack(model: Any, inputs: tuple[Column, ...]) -> Packed:
    """Weights as JSON. Raises ModelRefused for what are not finite numbers, or not as many as the inputs."""
    array = np.asarray(model)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise ModelRefused(f"expected a vector of numbers as weights, got {array.dtype} of shape {array.shape}")
    try:
        weights = Weights(tuple(array.astype(np.float64).tolist()))
    except InvalidWeights as exc:
        raise ModelRefused(str(exc)) from exc
    _check_inputs(inputs, weights)
    artefact = _Stored(weights=list(weights.values)).model_dump_json().encode()
    return Packed(artefact, "weights.json", _OUTPUTS, {"numpy": np.__version__})


def load(artefact: Artefact, manifest: Manifest, trust: Trust) -> Model:
    """The model of the weights in JSON. Raises ModelRefused."""
    del trust  # numbers need none
    try:
        weights = Weights(tuple(_Stored.model_validate_json(artefact.read()).weights))
    except ValidationError as exc:
        [error, *_] = exc.errors(include_url=False, include_input=False)
        where = ".".join(map(str, error["loc"])) or "the whole"
        raise ModelRefused(f'expected {{"weights": [...]}} of finite numbers, got {where}: {error["msg"]}') from exc
    signature = manifest.signature()
    _check_inputs(signature.inputs, weights)
    if _shapes(signature.outputs) != _shapes(_OUTPUTS):
        raise ModelRefused("a linear model has one output, prediction of type float")
    return LinearModel(signature, weights)


def _check_inputs(inputs: tuple[Column, ...], weights: Weights) -> None:
    if _shapes(inputs) != [(VECTOR, Kind.FLOAT, len(weights))]:
        raise ModelRefused(f"a linear model has one input, {VECTOR} of {len(weights)} floats")


def _shapes(columns: tuple[Column, ...]) -> list[tuple[str, Kind, int | None]]:
    return [(column.name, column.kind, column.width) for column in columns]

import json

import numpy as np
import pytest

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import ColumnSpec, Manifest
from weighbridge.adapters.runtimes import Trust, linear
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind

_PAIR = (Column(name="features", kind=Kind.FLOAT, width=2),)


def manifest(output: str = "prediction", width: int = 2) -> Manifest:
    return Manifest(
        runtime="linear",
        artefact="weights.json",
        sha256="0" * 64,
        inputs=[ColumnSpec(name="features", type="float", width=width)],
        outputs=[ColumnSpec(name=output, type="float")],
    )


@pytest.mark.parametrize("model", [[1, 2], (0.5, 1.5), np.array([1.0, 2.0])])
def test_vectors_are_taken(model: object) -> None:
    assert linear.takes(model)
    assert linear.pack(model, _PAIR).outputs == (Column(name="prediction", kind=Kind.FLOAT),)


@pytest.mark.parametrize("model", ["weights", np.eye(2), {"weights": [1.0]}])
def test_what_is_no_vector_is_not_taken(model: object) -> None:
    assert not linear.takes(model)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ([True, False], "expected a vector of numbers as weights, got bool"),
        (["1", "2"], "expected a vector of numbers as weights, got <U1"),
        ([[1.0, 2.0]], r"expected a vector of numbers as weights, got float64 of shape \(1, 2\)"),
        ([1.0, float("nan")], "the weight at position 1 is not a finite number"),
        ([1.0], "a linear model has one input, features of 1 floats"),
    ],
)
def test_what_are_no_weights_for_the_inputs_is_refused(model: object, reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        linear.pack(model, _PAIR)


@pytest.mark.parametrize(
    ("artefact", "where"),
    [
        (b"", "the whole"),
        (b'{"weights": []}', "weights"),
        (b'{"weights": [1.0, true]}', "weights.1"),
        (b'{"weights": [1.0, "2"]}', "weights.1"),
        (b'{"weights": [1.0, NaN]}', "weights.1"),
        (b'{"weights": [1.0, 1e999]}', "weights.1"),
        (b'{"weights": [1.0, 2.0], "bias": 1.0}', "bias"),
        (b"[1.0, 2.0]", "the whole"),
    ],
)
def test_an_artefact_that_holds_anything_but_finite_numbers_is_refused(artefact: bytes, where: str) -> None:
    with pytest.raises(ModelRefused, match=rf"expected {{\"weights\": \[...\]}} of finite numbers, got {where}: "):
        linear.load(Artefact.of(artefact), manifest(), Trust())


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        (manifest(width=3), "a linear model has one input, features of 2 floats"),
        (manifest("score"), "a linear model has one output, prediction of type float"),
    ],
)
def test_weights_that_do_not_fit_their_manifest_are_refused(stated: Manifest, reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        linear.load(Artefact.of(json.dumps({"weights": [1, 2.5]}).encode()), stated, Trust())

"""A model that gives another number of rows than it was given fails, whatever library it comes from."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.unit.adapters.runtimes.fitted import reloaded, vector
from tests.unit.adapters.runtimes.graphs import graph
from weighbridge.adapters.runtimes.python import PythonModel
from weighbridge.adapters.runtimes.sklearn import SklearnModel
from weighbridge.adapters.runtimes.trees import TreeModel
from weighbridge.application.inline import Inline
from weighbridge.application.live import Served
from weighbridge.application.ports import Model
from weighbridge.domain.errors import InferenceFailed
from weighbridge.domain.signature import Column, Kind, Signature

_SIGNATURE = Signature(vector(1), (Column(name="prediction", kind=Kind.FLOAT),))


class Estimator:
    """It predicts the first row only."""

    def predict(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return rows[:1, 0]


class Scorer:
    """It scores the first row only."""

    def predict(self, columns: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        return {"prediction": columns["features"][:1, 0]}


def _sklearn() -> Model:
    return SklearnModel(_SIGNATURE, Estimator())


def _python() -> Model:
    return PythonModel(_SIGNATURE, Scorer())


def _trees() -> Model:
    return TreeModel(_SIGNATURE, lambda matrix: matrix[:1, 0], None)


def _onnx() -> Model:
    model = graph(
        [("Reshape", ["x", "row"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", 1])},
        {"y": (TensorProto.FLOAT, None)},
        initializer=[helper.make_tensor("row", TensorProto.INT64, [2], [1, -1])],
    )
    return reloaded("onnx", model, vector(1))[1]


@pytest.mark.parametrize("opened", [_sklearn, _python, _trees, _onnx])
def test_one_row_for_two_is_a_failure(opened: Callable[[], Model]) -> None:
    served = Served("model", "1", Inline(opened(), slice_rows=10), max_rows=10)
    outputs = served([[1.0]])

    assert isinstance(outputs, tuple)
    assert [values.shape for values in outputs] == [(1,)]
    with pytest.raises(InferenceFailed):
        served([[1.0], [2.0]])

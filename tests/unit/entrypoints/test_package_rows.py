"""What `weighbridge.package` asks of every model: a prediction for each row, whatever other rows come with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.base import BaseEstimator, RegressorMixin

import weighbridge
from tests.unit.adapters.runtimes.graphs import graph
from weighbridge.adapters.manifest import Golden, Manifest
from weighbridge.domain.errors import ModelRefused

_ONE = [[2.0]]
_MANY = [[1.0], [2.0], [6.0]]

_WAYS: dict[str, Callable[[Any], Any]] = {
    "one for all": lambda column: column[:1],
    "one too many": lambda column: np.append(column, 0.0),
    "a single number": lambda column: column[0],
    "centred": lambda column: column - column.mean(),
    "otherwise in twos": lambda column: column + (len(column) == 2),
    "never alone": lambda column: column if len(column) > 1 or column[0] == 1.0 else column[1],
}


class Answering(RegressorMixin, BaseEstimator):
    """An estimator of the user's own."""

    def __init__(self, way: str = "centred", way_once_packaged: str | None = None) -> None:
        self.way = way
        self.way_once_packaged = way_once_packaged

    def fit(self, rows: Any, target: Any) -> "Answering":
        self.n_features_in_ = len(rows[0]) + 0 * len(target)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "way": self.way_once_packaged or self.way}

    def predict(self, rows: Any) -> Any:
        return _WAYS[self.way](np.asarray(rows)[:, 0])


def refusal(model: Any, example: Any, directory: Path) -> str:
    trusted = [f"{Answering.__module__}.Answering"]
    with pytest.raises(ModelRefused) as refused:
        weighbridge.package(model, directory / "model" / "1", example=example, trusted_types=trusted)
    return str(refused.value)


@pytest.mark.parametrize(
    ("way", "example", "counts"),
    [
        ("one for all", _ONE, "2 predictions, one for each row, got 1"),
        ("one for all", _MANY, "2 predictions, one for each row, got 1"),
        ("one too many", _MANY, "1 predictions, one for each row, got 2"),
        ("a single number", _ONE, "1 predictions, one for each row, got one for all"),
    ],
)
def test_a_model_that_gives_another_number_of_rows_than_it_was_given_is_refused(
    tmp_path: Path, way: str, example: Any, counts: str
) -> None:
    model = Answering(way).fit(_MANY, [0, 0, 0])

    assert refusal(model, example, tmp_path) == (
        f"expected {counts}; a model has to take any number of rows and predict each of them"
    )


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("centred", "The model gives row 0 of the example, counted from 0, another prediction alone than"),
        (
            "otherwise in twos",
            "The model gives row 0 of the example, counted from 0, another prediction beside one",
        ),
        ("never alone", "The model takes the example as a whole, but not row 1 of it alone: index 1 is out of bounds"),
    ],
)
def test_a_model_whose_answer_depends_on_the_other_rows_is_refused(tmp_path: Path, way: str, message: str) -> None:
    assert refusal(Answering(way).fit(_MANY, [0, 0, 0]), _MANY, tmp_path).startswith(message)


def test_a_model_that_gives_as_many_rows_as_it_should_only_once_packaged_is_refused(tmp_path: Path) -> None:
    model = Answering("one for all", "otherwise in twos").fit(_MANY, [0, 0, 0])

    assert refusal(model, [[2.0]] * 3, tmp_path)


def _graph(*nodes: tuple[str, list[str], list[str]]) -> onnx.ModelProto:
    shapes = {"one": [1, 1], "row": [1, -1]}
    return graph(
        [*nodes],
        {"x": (TensorProto.FLOAT, ["n", 1])},
        {"y": (TensorProto.FLOAT, None)},
        initializer=[helper.make_tensor(name, TensorProto.INT64, [2], shape) for name, shape in shapes.items()],
    )


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (_graph(("Reshape", ["x", "one"], ["y"])), _ONE, "The model takes one row but not two, as if a batch size"),
        (_graph(("Reshape", ["x", "row"], ["y"])), _ONE, "expected 2 predictions, one for each row, got 1"),
        (_graph(("Reshape", ["x", "row"], ["y"])), _MANY, "expected 2 predictions, one for each row, got 1"),
        (_graph(("ReduceMax", ["x"], ["y"])), _ONE, "expected 2 predictions, one for each row, got 1"),
        (
            _graph(("ReduceMean", ["x"], ["mean"]), ("Sub", ["x", "mean"], ["y"])),
            _MANY,
            "The model gives row 0 of the example, counted from 0, another prediction alone than",
        ),
    ],
    ids=["takes one row", "gives one row", "gives one row of many", "gives the greatest", "is centred"],
)
def test_a_graph_that_is_not_for_any_number_of_rows_is_refused(
    tmp_path: Path, model: onnx.ModelProto, example: Any, message: str
) -> None:
    assert refusal(model, example, tmp_path).startswith(message)


def test_an_example_of_one_row_gives_two_golden_rows(tmp_path: Path) -> None:
    written = weighbridge.package([0.5], tmp_path / "half" / "1", example=_ONE)

    manifest = Manifest.read((written / "model.toml").read_bytes(), "model.toml")
    assert manifest.golden == [Golden(input={"features": [2.0]}, output={"prediction": 1.0})] * 2

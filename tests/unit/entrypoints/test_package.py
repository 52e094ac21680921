import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from palmerpenguins import load_penguins
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

import weighbridge
from weighbridge.adapters.manifest import Golden, Manifest
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind

_WEIGHTS = [0.25, -0.5]
_ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def manifest(directory: Path) -> Manifest:
    return Manifest.read((directory / "model.toml").read_bytes(), "model.toml")


def test_a_version_holds_the_artefact_and_a_manifest_that_pins_it(tmp_path: Path) -> None:
    written = weighbridge.package(_WEIGHTS, tmp_path / "models" / "pair" / "1", example=_ROWS)

    artefact = (written / "weights.json").read_bytes()
    assert written == tmp_path / "models" / "pair" / "1"
    assert {path.name for path in written.iterdir()} == {"model.toml", "weights.json"}
    assert artefact == b'{"weights":[0.25,-0.5]}'
    stated = manifest(written)
    assert (stated.runtime, stated.artefact, stated.sha256) == (
        *("linear", "weights.json"),
        hashlib.sha256(artefact).hexdigest(),
    )
    assert stated.golden == [
        Golden(input={"features": row}, output={"prediction": 0.25 * row[0] - 0.5 * row[1]}) for row in _ROWS
    ]
    assert {*stated.libraries} == {"python", "numpy"}


def test_what_people_are_told_is_in_the_manifest(tmp_path: Path) -> None:
    told = {"title": "Pairs", "description": "Of two", "owner": "us"}

    stated = manifest(weighbridge.package(_WEIGHTS, tmp_path / "pair" / "1", example=_ROWS, **told))

    assert {key: getattr(stated, key) for key in told} == told


def test_what_people_cannot_be_told_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="title: it must be one line of printable characters"):
        weighbridge.package(_WEIGHTS, tmp_path / "pair" / "1", example=_ROWS, title="two\nlines")

    assert [*tmp_path.iterdir()] == []


def test_golden_rows_are_five_from_all_over_the_example(tmp_path: Path) -> None:
    rows = [[float(place), 0.0] for place in range(5000)]

    written = weighbridge.package(_WEIGHTS, tmp_path / "pair" / "1", example=rows)

    assert [golden.input["features"] for golden in manifest(written).golden] == [
        *([0.0, 0.0], [1245.0, 0.0]),
        *([2496.0, 0.0], [3747.0, 0.0], [4999.0, 0.0]),
    ]


def test_a_null_is_left_out_of_its_golden_row(tmp_path: Path) -> None:
    frame = load_penguins()[["bill_length_mm", "year", "species"]].iloc[2:5]
    model = HistGradientBoostingClassifier(max_iter=1).fit(frame[["bill_length_mm", "year"]], frame["species"] == "x")

    written = weighbridge.package(model, tmp_path / "penguins" / "1.10", example=frame[["bill_length_mm", "year"]])

    [_, without, _] = manifest(written).golden
    assert without.input == {"year": 2007}
    assert tomllib.loads((written / "model.toml").read_text())["inputs"] == [
        {"name": "bill_length_mm", "type": "float", "nullable": True, "minimum": 36.7, "maximum": 40.3},
        {"name": "year", "type": "int", "minimum": 2007.0, "maximum": 2007.0},
    ]


def test_several_targets_are_one_vector(tmp_path: Path) -> None:
    rows, target = load_diabetes(return_X_y=True)
    model = LinearRegression().fit(rows, np.column_stack([target, target, target]))

    written = weighbridge.package(model, str(tmp_path / "diabetes" / "1"), example=rows)

    assert manifest(written).signature().outputs == (Column(name="prediction", kind=Kind.FLOAT, width=3),)


def test_several_labels_that_are_yes_or_no_are_one_vector(tmp_path: Path) -> None:
    model = MLPClassifier(2, max_iter=5, tol=1e9, n_iter_no_change=1, random_state=0)
    model.fit(_ROWS, [[0, 1, 1], [1, 0, 1], [1, 1, 0]])

    written = weighbridge.package(model, tmp_path / "flags" / "1", example=_ROWS)

    assert manifest(written).signature().outputs == (
        Column(name="label", kind=Kind.INT, width=3),
        Column(name="probabilities", kind=Kind.FLOAT, width=3),
    )


@pytest.mark.parametrize("place", ["pair/one", "pa ir/1", ".pair/1", "pair/1.2.3.4.5", "pair/-1"])
def test_a_place_that_no_version_can_have_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(ModelRefused, match=f"expected a directory NAME/VERSION, such as models/churn/1, got {place}"):
        weighbridge.package(_WEIGHTS, tmp_path / place, example=_ROWS)


def test_the_embedded_models_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="the name default is taken by the embedded model"):
        weighbridge.package(_WEIGHTS, tmp_path / "default" / "1", example=_ROWS)


def test_a_version_is_never_overwritten(tmp_path: Path) -> None:
    written = weighbridge.package(_WEIGHTS, tmp_path / "pair" / "1", example=_ROWS)

    with pytest.raises(ModelRefused, match=r"exists, and versions are never overwritten; take the next number"):
        weighbridge.package([1.0, 1.0], written, example=_ROWS)

    assert (written / "weights.json").read_bytes() == b'{"weights":[0.25,-0.5]}'


def test_of_two_who_write_one_version_the_second_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "pair" / "1"

    def meanwhile(path: str) -> bool:
        weighbridge_file = Path(path) / "model.toml"
        weighbridge_file.parent.mkdir(parents=True)
        weighbridge_file.touch()
        return False

    monkeypatch.setattr("os.path.lexists", meanwhile)

    with pytest.raises(ModelRefused, match="exists, and versions are never overwritten"):
        weighbridge.package(_WEIGHTS, target, example=_ROWS)

    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_a_version_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device", descriptor)

    monkeypatch.setattr("os.fsync", full)

    with pytest.raises(OSError, match="No space left"):
        weighbridge.package(_WEIGHTS, tmp_path / "pair" / "1", example=_ROWS)

    assert not list((tmp_path / "pair").iterdir())


@pytest.mark.parametrize("model", [object(), {"weights": [1.0]}, np.eye(2)])
def test_a_model_of_no_known_library_is_refused(tmp_path: Path, model: object) -> None:
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    with pytest.raises(ModelRefused, match=f"expected a model of scikit-learn, .* got {kind}"):
        weighbridge.package(model, tmp_path / "pair" / "1", example=_ROWS)


def test_an_example_that_the_model_does_not_take_is_refused(tmp_path: Path) -> None:
    rows, target = load_iris(return_X_y=True)
    model = DecisionTreeClassifier().fit(rows, target)

    with pytest.raises(ModelRefused, match=r"The model does not take the example.* expecting 4 features"):
        weighbridge.package(model, tmp_path / "iris" / "1", example=rows[:, :3])

    assert not (tmp_path / "iris").exists()


def test_predictions_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="The predictions for the example are not all finite"):
        weighbridge.package([1e300, 1e300], tmp_path / "pair" / "1", example=[[1e300, 1e300]])


class Halves(RegressorMixin, BaseEstimator):
    """An estimator of the user's own, which predicts otherwise when it comes from a file."""

    def fit(self, rows: Any, target: Any) -> "Halves":
        self.factor_ = float(np.mean(target)) + len(rows)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"factor_": self.factor_ / 2}

    def predict(self, rows: Any) -> Any:
        return np.full(len(rows), self.factor_)


def test_a_model_that_predicts_otherwise_once_packaged_is_refused(tmp_path: Path) -> None:
    model = Halves().fit(_ROWS, [1.0, 2.0, 3.0])

    with pytest.raises(ModelRefused, match="differ in the prediction for the example"):
        weighbridge.package(
            model, tmp_path / "halves" / "1", example=_ROWS, trusted_types=[f"{Halves.__module__}.Halves"]
        )


def test_a_type_of_the_users_own_has_to_be_trusted(tmp_path: Path) -> None:
    model = Halves().fit(_ROWS, [1.0, 2.0, 3.0])

    with pytest.raises(ModelRefused, match=r"harmless: .*\.Halves; .* WEIGHBRIDGE_TRUSTED_TYPES"):
        weighbridge.package(model, tmp_path / "halves" / "1", example=_ROWS)


def test_weighbridge_alone_imports_no_library_of_models() -> None:
    code = (
        "import sys, weighbridge, weighbridge.entrypoints.package as _, weighbridge.adapters.runtimes.linear as _;"
        "print({'sklearn', 'pandas', 'skops', 'scipy', 'xgboost', 'lightgbm', 'onnxruntime'} & {*sys.modules})"
    )

    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_importing_weighbridge_imports_not_even_numpy() -> None:
    code = "import sys, weighbridge; print({'numpy', 'pydantic'} & {*sys.modules})"

    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("model", [XGBClassifier(), LGBMClassifier()], ids=["xgboost", "lightgbm"])
def test_a_model_that_is_not_fitted_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(ModelRefused, match=f"{type(model).__name__} cannot be packaged; is it fitted\\? "):
        weighbridge.package(model, tmp_path / "raw" / "1", example=_ROWS)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx"):
        weighbridge.package(tmp_path / "nothing.onnx", tmp_path / "raw" / "1", example=_ROWS)


def test_texts_that_are_no_unicode_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"half": pd.Categorical(["\ud800", "b"])})

    with pytest.raises(ModelRefused, match="names and categories must be valid Unicode: 'half'"):
        weighbridge.package(_WEIGHTS, tmp_path / "raw" / "1", example=frame)


def test_a_null_that_the_model_knows_as_none_is_pointed_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"sex": np.array(["m", "f", None] * 4, dtype=object)}, dtype=object)
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(frame, [0, 0, 1] * 4)

    with pytest.raises(ModelRefused, match="fit it with NaN in place of None"):
        weighbridge.package(model, tmp_path / "raw" / "1", example=frame)

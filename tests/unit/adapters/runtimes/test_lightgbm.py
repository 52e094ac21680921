import subprocess
import sys

import lightgbm
import numpy as np
import pandas as pd
import pytest

from tests.unit.adapters.runtimes.cases_lightgbm import penguins
from tests.unit.adapters.runtimes.fitted import predict, reloaded, vector
from weighbridge.adapters.inference import infer
from weighbridge.adapters.runtimes import runtime
from weighbridge.domain.errors import ModelRefused

ROWS = np.arange(80.0).reshape(40, 2)
TWO = np.arange(40) // 20


def test_the_integers_that_are_classes_are_in_the_artefact_which_lightgbm_still_reads() -> None:
    model = lightgbm.LGBMClassifier(n_estimators=20, min_child_samples=1, n_jobs=1, verbose=-1).fit(
        ROWS, TWO * 10.0 - 3
    )
    packed, ours = reloaded("lightgbm", model, vector(2))

    labels, _ = predict(ours, ROWS)

    assert labels.tolist() == np.asarray(model.predict(ROWS)).tolist()
    assert {*labels.tolist()} == {-3, 7}
    assert labels.dtype == np.int64
    plain = lightgbm.Booster(model_str=packed.artefact.decode())
    np.testing.assert_array_equal(plain.predict(ROWS), model.booster_.predict(ROWS))


def test_classes_that_are_no_texts_integers_or_booleans_are_refused() -> None:
    model = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(ROWS, TWO * 2.0)
    model._classes = np.array([0.5, 1.5])

    with pytest.raises(ModelRefused, match="the classes must be texts, integers or booleans"):
        runtime("lightgbm").pack(model, vector(2))


def test_a_classifier_of_an_objective_of_its_own_is_refused() -> None:
    model = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1, objective="cross_entropy").fit(ROWS, TWO)

    with pytest.raises(ModelRefused, match="the objective of a classifier must be one of binary"):
        runtime("lightgbm").pack(model, vector(2))


def test_categories_that_are_numbers_are_refused() -> None:
    frame = pd.DataFrame({"a": pd.Categorical([5, 7] * 20)})
    model = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(frame, TWO)

    with pytest.raises(
        ModelRefused, match="columns that had categories in training must have categories that are texts"
    ):
        runtime("lightgbm").pack(model, infer(frame).inputs)


def test_categories_in_another_order_than_in_training_are_refused() -> None:
    model, frame, _ = penguins()
    turned = frame.assign(island=frame.island.cat.reorder_categories(frame.island.cat.categories[::-1]))

    with pytest.raises(ModelRefused, match="expected the categories of column island in the order of training"):
        runtime("lightgbm").pack(model, infer(turned).inputs)


LOAD = """
import sys
from tests.unit.adapters.runtimes.fitted import manifest, vector
from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.runtimes import Trust, runtime
from weighbridge.domain.signature import Column, Kind

outputs = [Column(name="prediction", kind=Kind.FLOAT)]
try:
    runtime("lightgbm").load(Artefact.of(sys.stdin.buffer.read()), manifest("lightgbm", vector(2), outputs), Trust())
except Exception as exc:
    sys.exit(type(exc).__name__)
"""


def test_a_tree_that_is_wrong_is_an_error_and_not_the_end_of_the_process() -> None:
    model = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(ROWS, TWO)
    text = runtime("lightgbm").pack(model, vector(2)).artefact

    child = subprocess.run(
        [sys.executable, "-c", LOAD],
        input=text.replace(b"leaf_value", b"leaf_valve"),
        capture_output=True,
        check=False,
    )

    assert (child.returncode, child.stdout) == (1, b"")
    assert child.stderr.endswith(b"LightGBMError\n")


def test_a_row_alone_gets_the_very_bits_of_the_package() -> None:
    model = lightgbm.LGBMClassifier(n_estimators=20, min_child_samples=1, n_jobs=1, verbose=-1).fit(ROWS, TWO)
    _, ours = reloaded("lightgbm", model, vector(2))

    probabilities = [predict(ours, row[np.newaxis])[1][0, 1] for row in ROWS]

    np.testing.assert_array_equal(probabilities, model.booster_.predict(ROWS))


@pytest.mark.parametrize(
    "name", ["LGBM_BoosterPredictForMatSingleRowFastInit", "LGBM_BoosterPredictForMatSingleRowFast"]
)
def test_the_library_has_the_functions_that_a_row_is_scored_by(name: str) -> None:
    assert hasattr(lightgbm.libpath._LIB, name), f"this LightGBM has no {name}: see adapters/runtimes/lightgbm.py"

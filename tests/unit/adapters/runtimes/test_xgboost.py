import numpy as np
import pandas as pd
import pytest
import xgboost

from tests.unit.adapters.runtimes.cases_xgboost import penguins, stopped_early
from tests.unit.adapters.runtimes.fitted import manifest, predict, reloaded, vector
from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.inference import infer
from weighbridge.adapters.runtimes import Trust, runtime
from weighbridge.adapters.runtimes.xgboost import _score
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind

ROWS = np.arange(20.0).reshape(10, 2)
TWO = np.arange(10) % 2
THREE = np.arange(10) % 3


def test_json_is_loaded_like_ubj() -> None:
    model = xgboost.XGBRegressor(n_estimators=2).fit(ROWS, TWO)
    packed, ours = reloaded("xgboost", model, vector(2))
    text = bytes(model.get_booster().save_raw("json")) + b"\n"

    again = runtime("xgboost").load(Artefact.of(text), manifest("xgboost", vector(2), packed.outputs), Trust())

    np.testing.assert_array_equal(predict(again, ROWS), predict(ours, ROWS))


def test_a_booster_predicts_with_all_its_trees_as_the_library_does() -> None:
    model, rows, held = stopped_early()
    booster = model.get_booster()
    _, ours = reloaded("xgboost", booster, vector(rows.shape[1]))

    [predicted] = predict(ours, held)

    np.testing.assert_array_equal(predicted, booster.inplace_predict(held))
    assert not np.array_equal(predicted, model.predict(held))


def test_an_operator_may_name_the_classes_in_the_manifest() -> None:
    model = xgboost.XGBClassifier(n_estimators=2).fit(ROWS, TWO)
    packed = runtime("xgboost").pack(model, vector(2))
    label = Column(name="label", kind=Kind.STRING, categories=("ham", "spam"))
    named = manifest("xgboost", vector(2), [label, packed.outputs[1]])

    labels, _ = predict(runtime("xgboost").load(Artefact.of(packed.artefact), named, Trust()), ROWS)

    assert labels.tolist() == [("ham", "spam")[label] for label in model.predict(ROWS)]


@pytest.mark.parametrize(
    "outputs",
    [
        [Column(name="prediction", kind=Kind.FLOAT)],
        [Column(name="label", kind=Kind.STRING, categories=("a", "b"))],
        [Column(name="label", kind=Kind.INT)],
    ],
)
def test_outputs_other_than_those_of_the_trees_are_refused(outputs: list[Column]) -> None:
    packed = runtime("xgboost").pack(xgboost.XGBClassifier(n_estimators=2).fit(ROWS, THREE), vector(2))

    with pytest.raises(ModelRefused, match=r"the outputs must be those of the trees|expected 3 classes"):
        runtime("xgboost").load(Artefact.of(packed.artefact), manifest("xgboost", vector(2), outputs), Trust())


def test_another_number_of_features_is_refused() -> None:
    model = xgboost.XGBRegressor(n_estimators=2).fit(ROWS, TWO)

    with pytest.raises(ModelRefused, match="expected 2 features, as many as the trees were grown on, got 3"):
        runtime("xgboost").pack(model, vector(3))


def test_texts_are_refused() -> None:
    model = xgboost.XGBRegressor(n_estimators=2).fit(ROWS[:, :1], TWO)

    with pytest.raises(ModelRefused, match="expected numbers or categories in column a, got texts"):
        runtime("xgboost").pack(model, (Column(name="a", kind=Kind.STRING),))


def test_columns_in_another_order_are_refused() -> None:
    model = xgboost.XGBRegressor(n_estimators=2).fit(pd.DataFrame(ROWS, columns=["a", "b"]), TWO)

    with pytest.raises(ModelRefused, match="the columns must be those of training, in the same order"):
        runtime("xgboost").pack(model, tuple(Column(name=name, kind=Kind.FLOAT) for name in "ba"))


def test_named_columns_without_categories_are_taken() -> None:
    frame = pd.DataFrame(ROWS, columns=["a", "b"])
    model = xgboost.XGBRegressor(n_estimators=2).fit(frame, TWO)
    _, ours = reloaded("xgboost", model, infer(frame).inputs)

    np.testing.assert_array_equal(predict(ours, ROWS.tolist()), [model.predict(frame)])


def test_categories_in_another_order_than_in_training_are_refused() -> None:
    model, frame, _ = penguins()
    turned = frame.assign(island=frame.island.cat.reorder_categories(frame.island.cat.categories[::-1]))

    with pytest.raises(ModelRefused, match="expected the categories of column island in the order of training"):
        runtime("xgboost").pack(model, infer(turned).inputs)


def test_categories_that_are_numbers_are_refused() -> None:
    frame = pd.DataFrame({"a": pd.Categorical([5, 7] * 5)})
    model = xgboost.XGBRegressor(n_estimators=2, enable_categorical=True).fit(frame, TWO)

    with pytest.raises(ModelRefused, match="expected column a to have categories that are texts, as in training"):
        runtime("xgboost").pack(model, infer(frame).inputs)


@pytest.mark.parametrize(
    ("model", "target", "message"),
    [
        (xgboost.XGBRegressor(n_estimators=2, missing=-1), TWO, "fitted with missing=nan"),
        (
            xgboost.XGBRegressor(n_estimators=2, booster="gblinear", updater="coord_descent"),
            TWO,
            "the booster gblinear is not supported",
        ),
        (xgboost.XGBClassifier(n_estimators=2, objective="binary:logitraw"), TWO, "the objective of a classifier"),
        (xgboost.XGBClassifier(n_estimators=2), np.c_[TWO, 1 - TWO], "a classifier of several labels"),
    ],
)
def test_what_could_not_be_told_as_probabilities_or_nulls_is_refused(
    model: xgboost.XGBModel, target: np.ndarray, message: str
) -> None:
    model.fit(ROWS, target)

    with pytest.raises(ModelRefused, match=message):
        runtime("xgboost").pack(model, vector(2))


def test_a_row_alone_gets_the_very_bits_of_the_package() -> None:
    model = xgboost.XGBClassifier(n_estimators=5).fit(ROWS, THREE)
    _, ours = reloaded("xgboost", model, vector(2))

    probabilities = [predict(ours, row[np.newaxis])[1][0] for row in ROWS]

    np.testing.assert_array_equal(probabilities, model.get_booster().inplace_predict(ROWS))


def test_a_call_that_fails_says_why() -> None:
    score = _score(xgboost.XGBRegressor(n_estimators=1).fit(ROWS, TWO).get_booster())

    with pytest.raises(xgboost.core.XGBoostError, match="feature"):
        score(np.zeros((1, 3)))


@pytest.mark.parametrize(("name", "kind"), [("_LIB", "CDLL"), ("_ProxyDMatrix", "type"), ("_check_call", "function")])
def test_the_package_has_the_ways_to_its_library_that_are_relied_on(name: str, kind: str) -> None:
    found = type(getattr(xgboost.core, name, None)).__name__

    assert found == kind, f"xgboost.core.{name} is of type {found}, not {kind}: see adapters/runtimes/xgboost.py"

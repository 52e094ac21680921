"""XGBoost's estimators and a Booster, fitted to the data sets that scikit-learn and palmerpenguins ship."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import xgboost
from palmerpenguins import load_penguins
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from tests.unit.adapters.runtimes.case import Case
from tests.unit.adapters.runtimes.fitted import CLASSIFIED, Fitted, as_json, case, split


def cases() -> Sequence[Case]:
    """Two classes and three, categories and nulls, early stopping, several targets, and a Booster."""
    return [
        case("xgboost-two-classes", _two_classes, *CLASSIFIED),
        case("xgboost-softmax", _softmax, *CLASSIFIED),
        case("xgboost-penguins", penguins, *CLASSIFIED),
        case("xgboost-stopped-early", stopped_early, "prediction"),
        case("xgboost-two-targets", _two_targets, "prediction"),
        Case(
            "xgboost-booster",
            lambda: _booster()[:2],
            lambda: as_json(_booster()[2]),
            lambda: {"prediction": _booster()[0].inplace_predict(_booster()[2])},
        ),
    ]


@cache
def _two_classes() -> Fitted:
    rows, target, held = split(*load_breast_cancer(return_X_y=True))
    return xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(rows, target), rows, held


@cache
def _softmax() -> Fitted:
    rows, target, held = split(*load_iris(return_X_y=True))
    model = xgboost.XGBClassifier(n_estimators=5, n_jobs=1, objective="multi:softmax")
    return model.fit(rows, target), rows, held


@cache
def penguins() -> Fitted:
    """Numbers and categories, some of either null."""
    frame = load_penguins().astype({"island": "category", "sex": "category"})
    rows, target, held = split(frame, frame.pop("species").astype("category").cat.codes)
    return xgboost.XGBClassifier(n_estimators=5, n_jobs=1, enable_categorical=True).fit(rows, target), rows, held


@cache
def stopped_early() -> Fitted:
    """More trees than the best number of them."""
    rows, target, held = split(*load_diabetes(return_X_y=True))
    model = xgboost.XGBRegressor(n_estimators=50, n_jobs=1, learning_rate=0.9, early_stopping_rounds=3)
    return model.fit(rows, target, eval_set=[(rows[::2], target[1::2])], verbose=False), rows, held


@cache
def _two_targets() -> Fitted:
    rows, target, held = split(*load_diabetes(return_X_y=True))
    return xgboost.XGBRegressor(n_estimators=5, n_jobs=1).fit(rows, np.c_[target, -target]), rows, held


@cache
def _booster() -> Fitted:
    rows, target, held = split(*load_iris(return_X_y=True))
    parameters = {"objective": "multi:softprob", "num_class": 3, "nthread": 1}
    return xgboost.train(parameters, xgboost.DMatrix(rows, target), 5), rows, held

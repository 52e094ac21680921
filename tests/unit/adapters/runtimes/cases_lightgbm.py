"""LightGBM's estimators and a Booster, fitted to the data sets that scikit-learn and palmerpenguins ship."""

import warnings
from collections.abc import Sequence
from functools import cache

import lightgbm
import numpy as np
from palmerpenguins import load_penguins
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from tests.unit.adapters.runtimes.case import Case
from tests.unit.adapters.runtimes.fitted import CLASSIFIED, Fitted, as_json, case, split


def cases() -> Sequence[Case]:
    """Classes of each type, categories and nulls, early stopping, and a Booster."""
    return [
        case("lightgbm-integers", _integers, *CLASSIFIED),
        case("lightgbm-booleans", _booleans, *CLASSIFIED),
        case("lightgbm-penguins", penguins, *CLASSIFIED),
        case("lightgbm-stopped-early", stopped_early, "prediction"),
        Case(
            "lightgbm-booster",
            lambda: _booster()[:2],
            lambda: as_json(_booster()[2]),
            lambda: {"prediction": _booster()[0].predict(_booster()[2])},
        ),
    ]


@cache
def _integers() -> Fitted:
    rows, target, held = split(*load_iris(return_X_y=True))
    model = lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1)
    return model.fit(rows, 10 * target - 5), rows, held


@cache
def _booleans() -> Fitted:
    rows, target, held = split(*load_breast_cancer(return_X_y=True))
    return lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(rows, target == 1), rows, held


@cache
def penguins() -> Fitted:
    """Numbers and categories, some of either null."""
    frame = load_penguins().astype({"island": "category", "sex": "category"})
    rows, target, held = split(frame, np.asarray(frame.pop("species"), object))
    return lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(rows, target), rows, held


@cache
def stopped_early() -> Fitted:
    """More trees than the best number of them."""
    rows, target, held = split(*load_diabetes(return_X_y=True))
    model = lightgbm.LGBMRegressor(n_estimators=50, n_jobs=1, learning_rate=0.9, verbose=-1)
    stop = lightgbm.early_stopping(3, verbose=False)
    with warnings.catch_warnings(action="ignore"):  # eval_set is deprecated; what replaces it is not in LightGBM 4.6
        return model.fit(rows, target, eval_set=[(rows[::2], target[1::2])], callbacks=[stop]), rows, held


@cache
def _booster() -> Fitted:
    rows, target, held = split(*load_iris(return_X_y=True))
    parameters = {"objective": "multiclass", "num_class": 3, "num_threads": 1, "verbose": -1}
    return lightgbm.train(parameters, lightgbm.Dataset(rows, target), 5), rows, held

"""ONNX models that skl2onnx makes of estimators which are fitted to scikit-learn's data sets."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

from tests.unit.adapters.runtimes.case import Case
from tests.unit.adapters.runtimes.fitted import CLASSIFIED, METHODS, Fitted, as_json, split


def cases() -> Sequence[Case]:
    """With a ZipMap and without, labels that are texts and integers, and a regression."""
    return [
        _case("onnx-texts-zipmap", _texts, {}, *CLASSIFIED),
        _case("onnx-integers", _integers, {"zipmap": False}, *CLASSIFIED),
        _case("onnx-regression", _regression, {}, "prediction"),
    ]


def _case(name: str, fitted: Any, options: dict[str, Any], *outputs: str) -> Case:
    return Case(
        name,
        lambda: (to_onnx(fitted()[0], fitted()[1][:1], options=options), fitted()[1]),
        lambda: as_json(fitted()[2]),
        lambda: {output: getattr(fitted()[0], METHODS[output])(fitted()[2]) for output in outputs},
    )


@cache
def _texts() -> Fitted:
    rows, target, held = split(*load_iris(return_X_y=True))
    model = LogisticRegression(max_iter=1000).fit(rows, np.array(["setosa", "versicolor", "virginica"])[target])
    return model, np.float32(rows), np.float32(held)


@cache
def _integers() -> Fitted:
    rows, target, held = split(*load_breast_cancer(return_X_y=True))
    return RandomForestClassifier(10, random_state=0).fit(np.float32(rows), target), np.float32(rows), np.float32(held)


@cache
def _regression() -> Fitted:
    rows, target, held = split(*load_diabetes(return_X_y=True))
    return LinearRegression().fit(rows, target), rows, held

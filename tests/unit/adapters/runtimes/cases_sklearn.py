"""scikit-learn's estimators and pipelines, fitted to the data sets that it and palmerpenguins ship."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from palmerpenguins import load_penguins
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, SplineTransformer, StandardScaler
from sklearn.svm import SVC

from tests.unit.adapters.runtimes.case import Case

_METHODS = {"label": "predict", "prediction": "predict", "probabilities": "predict_proba"}


def cases() -> Sequence[Case]:
    """Labels of all types, with and without probabilities; one target, several, and clusters."""
    return [
        _case("sklearn-logistic", ("label", "probabilities"), _logistic),
        _case("sklearn-forest", ("label", "probabilities"), _forest),
        _case("sklearn-boosting", ("label", "probabilities"), _boosting),
        _case("sklearn-neighbours", ("label", "probabilities"), _neighbours),
        _case("sklearn-support-vectors", ("label",), _support_vectors),
        _case("sklearn-histogram", ("prediction",), _histogram),
        _case("sklearn-two-targets", ("prediction",), _two_targets),
        _case("sklearn-clusters", ("prediction",), _clusters),
        _case("sklearn-outliers", ("prediction",), _outliers),
        _case("sklearn-mixed-columns", ("label", "probabilities"), mixed_columns),
        _case("sklearn-column-of-texts", ("label", "probabilities"), _column_of_texts),
        _case("sklearn-categories", ("label", "probabilities"), _categories),
    ]


Fitted = tuple[Any, Any, Any]
"""A model, what it was fitted to, and other rows."""


def _case(name: str, outputs: Sequence[str], fitted: Callable[[], Fitted]) -> Case:
    return Case(
        name,
        lambda: fitted()[:2],
        lambda: _as_json(fitted()[2]),
        lambda: {output: getattr(fitted()[0], _METHODS[output])(fitted()[2]) for output in outputs},
    )


def _as_json(rows: Any) -> list[Any]:
    if isinstance(rows, np.ndarray):
        return list(rows.tolist())
    return [
        {name: None if pd.isna(cell) else cell for name, cell in row.items()} for row in rows.to_dict(orient="records")
    ]


def _split(model: Any, rows: Any, target: Any) -> Fitted:
    """Fitted to three rows of four; the fourth is held out."""
    held = np.arange(len(rows)) % 4 == 3
    return model.fit(rows[~held], target[~held]), rows[~held], rows[held]


@cache
def _logistic() -> Fitted:
    rows, target = load_iris(return_X_y=True)
    search = GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [0.1, 1]})
    return _split(search, rows, target)


@cache
def _forest() -> Fitted:
    rows, target = load_breast_cancer(return_X_y=True)
    return _split(RandomForestClassifier(10, n_jobs=2, random_state=0), rows, target == 1)


@cache
def _boosting() -> Fitted:
    rows, target = load_iris(return_X_y=True)
    return _split(GradientBoostingClassifier(n_estimators=5, random_state=0), rows, target * 1.0)


@cache
def _neighbours() -> Fitted:
    rows, target = load_iris(return_X_y=True)
    return _split(KNeighborsClassifier(), rows, target)


@cache
def _support_vectors() -> Fitted:
    wine = load_wine()
    return _split(make_pipeline(StandardScaler(), SVC()), wine.data, wine.target_names[wine.target])


@cache
def _histogram() -> Fitted:
    rows, target = load_diabetes(return_X_y=True)
    return _split(HistGradientBoostingRegressor(max_iter=10), rows, target)


@cache
def _two_targets() -> Fitted:
    frame, target = load_diabetes(return_X_y=True, as_frame=True)
    model = make_pipeline(SplineTransformer(), LinearRegression())
    return _split(model, frame, np.column_stack([target, -target]))


@cache
def _clusters() -> Fitted:
    rows, target = load_wine(return_X_y=True)
    return _split(KMeans(3, n_init=1, random_state=0), rows, target)


@cache
def _outliers() -> Fitted:
    rows, target = load_wine(return_X_y=True)
    return _split(IsolationForest(n_estimators=10, max_features=5, random_state=0), rows, target)


@cache
def mixed_columns() -> Fitted:
    """Penguins: numbers and texts, some of either null."""
    frame = load_penguins()
    species = frame.pop("species")
    numbers = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g", "year"]
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numbers),
            ("texts", texts, ["island", "sex"]),
        ]
    )
    forest = RandomForestClassifier(10, random_state=0)
    return _split(Pipeline([("columns", columns), ("forest", forest)]), frame, species)


@cache
def _column_of_texts() -> Fitted:
    """Lines of the descriptions of two data sets, to be told apart."""
    lines = [
        (line, name) for name, data in (("iris", load_iris()), ("wine", load_wine())) for line in data.DESCR.split("\n")
    ]
    frame = pd.DataFrame(lines, columns=["line", "name"])
    columns = ColumnTransformer([("words", TfidfVectorizer(), "line")])
    return _split(make_pipeline(columns, LogisticRegression()), frame[["line"]], frame["name"])


@cache
def _categories() -> Fitted:
    frame = load_penguins()
    species = frame.pop("species")
    typed = frame.astype({"island": "category", "sex": "category"})
    return _split(HistGradientBoostingClassifier(max_iter=5, categorical_features="from_dtype"), typed, species)

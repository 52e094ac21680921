"""scikit-learn's estimators and pipelines, as skops files: data, of types that are trusted by name."""

import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import numpy as np
import sklearn
import skops
import skops.io
from sklearn.base import BaseEstimator, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.ensemble._forest import ForestClassifier
from sklearn.feature_extraction.text import _VectorizerMixin
from sklearn.pipeline import Pipeline
from sklearn.tree import BaseDecisionTree
from sklearn.utils.validation import check_is_fitted

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import Manifest
from weighbridge.adapters.runtimes import Packed, Trust
from weighbridge.adapters.runtimes.outputs import as_output, no_rows
from weighbridge.adapters.runtimes.sklearn_audit import settle
from weighbridge.adapters.runtimes.sklearn_names import admit
from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature

_METHODS = {"label": "predict", "prediction": "predict", "probabilities": "predict_proba"}
"""Outputs by the methods that give them."""

_CLASSES = {"b": Kind.BOOL, "i": Kind.INT, "u": Kind.INT, "f": Kind.FLOAT}


class SklearnModel:
    """An estimator, or a pipeline, whose rows go through all but its last step only once."""

    def __init__(self, signature: Signature, estimator: Any) -> None:
        self.signature = signature
        named = signature.vector is None and (
            hasattr(estimator, "feature_names_in_") or any(column.kind is Kind.STRING for column in signature.inputs)
        )
        self._rows = _Frames(signature) if named else Batch.matrix
        self._prepare = None
        if type(estimator) is Pipeline and len(estimator) > 1:
            self._prepare = estimator[:-1].transform
            estimator = estimator[-1]
        self._score = _scoring(estimator, [_METHODS[column.name] for column in signature.outputs])

    def predict(self, batch: Batch) -> Outputs:
        """Score the rows. Raises whatever the estimator does."""
        if not len(batch):
            return tuple(no_rows(column) for column in self.signature.outputs)
        with np.errstate(all="ignore"):  # what is not finite is judged by whoever asked
            rows = self._rows(batch)
            if self._prepare is not None:
                rows = self._prepare(rows)
            return tuple(map(as_output, self.signature.outputs, self._score(rows)))


def _scoring(estimator: Any, methods: list[str]) -> Callable[[Any], Iterable[Any]]:
    """What calls an estimator's methods in turn, or only the last where the others do no more than that one."""
    votes = type(estimator).predict in (ForestClassifier.predict, BaseDecisionTree.predict)
    if not votes or methods != ["predict", "predict_proba"]:
        bound = [getattr(estimator, method) for method in methods]
        return lambda rows: [method(rows) for method in bound]

    def score(rows: Any) -> tuple[Any, Any]:
        probabilities = estimator.predict_proba(rows)
        return estimator.classes_.take(probabilities.argmax(axis=1)), probabilities

    return score


class _Frames:
    """Makes data frames of the types that a model was fitted with."""

    def __init__(self, signature: Signature) -> None:
        self._pandas: Any = import_module("pandas")  # only what has named columns needs it
        self._categories = {
            column.name: self._pandas.CategoricalDtype(column.categories)
            for column in signature.inputs
            if column.categories is not None
        }

    def __call__(self, batch: Batch) -> Any:
        return self._pandas.DataFrame({name: self._series(name, values) for name, values in batch.columns().items()})

    def _series(self, name: str, values: Any) -> Any:
        categories = self._categories.get(name)
        if categories is not None:
            return self._pandas.Categorical(values, dtype=categories)
        if values.dtype == object:
            return np.array([np.nan if value is None else value for value in values], dtype=object)
        return values


def takes(model: object) -> bool:
    """Whether its type is scikit-learn's own, or derives from one that is."""
    return any(map(_is_own, type(model).__mro__))


def _is_own(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "sklearn"


def pack(model: Any, inputs: tuple[Column, ...]) -> Packed:
    """A fitted estimator as a skops file; of a search its best estimator. Raises ModelRefused."""
    del inputs  # an estimator knows its own
    model = getattr(model, "best_estimator_", model)
    name = type(model).__name__
    if not hasattr(model, "predict"):
        raise ModelRefused(f"{name} has no method predict")
    try:
        check_is_fitted(model)
        artefact = skops.io.dumps(model)
    except Exception as exc:
        raise ModelRefused(f"{name} is not fitted, or skops cannot write it as data: {exc}") from exc
    libraries = {"scikit-learn": sklearn.__version__, "skops": skops.__version__}
    return Packed(artefact, "model.skops", _outputs(model), libraries)


def _outputs(model: Any) -> tuple[Column, ...]:
    classes = getattr(model, "classes_", None)
    if classes is None:
        return (Column(name="prediction", kind=Kind.FLOAT if is_regressor(model) else Kind.INT),)
    if not isinstance(classes, np.ndarray):
        raise ModelRefused("a classifier of several labels is not supported; package one model for each label")
    if classes.dtype.kind in "UO" and all(isinstance(label, str) for label in classes):
        label = Column(name="label", kind=Kind.STRING, categories=tuple(map(str, classes)))
    elif classes.dtype.kind in _CLASSES:
        label = Column(name="label", kind=_CLASSES[classes.dtype.kind])
    else:
        raise ModelRefused("the classes must be texts, integers, floats or booleans")
    if not hasattr(model, "predict_proba"):
        return (label,)
    return label, Column(name="probabilities", kind=Kind.FLOAT, width=len(classes))


def _takes_texts(part: Any) -> bool:
    """Whether a vectoriser of texts comes first: of a data frame it would read the names of the columns.

    `part` is an estimator, or what one was made with.
    """
    match part:
        case _VectorizerMixin():
            return True
        case Pipeline():
            return _takes_texts(next((step for _, step in part.steps if step != "passthrough"), None))
        case list() | tuple():
            return any(map(_takes_texts, part))
        case BaseEstimator() if _is_own(type(part)) and not isinstance(part, ColumnTransformer):
            return any(_takes_texts(value) for name, value in vars(part).items() if not name.endswith("_"))
    return False


def load(artefact: Artefact, manifest: Manifest, trust: Trust) -> Model:
    """The estimator in a skops file. Raises ModelRefused, or whatever skops or scikit-learn do."""
    content = artefact.read()
    if not content.startswith(b"PK"):
        raise ModelRefused("not a skops file; a file that could be a pickle is never loaded")
    admitted = admit(content, trust.types)
    warnings.filterwarnings("ignore", module="sklearn")  # by the library's habit they come anew with every request
    estimator = skops.io.loads(content, trusted=admitted)
    settle(estimator, trust.types)
    if _takes_texts(estimator):
        raise ModelRefused(
            "The model was fitted on texts, and such models cannot be served yet. Fit it on a DataFrame instead: for a "
            "column of texts called review, replace the vectoriser by "
            'ColumnTransformer([("words", TfidfVectorizer(), "review")])'
        )
    signature = manifest.signature()
    for column in signature.outputs:
        if not hasattr(estimator, _METHODS.get(column.name, "")):
            known = ", ".join(_METHODS)
            raise ModelRefused(f"the estimator has no output {column.name}; it has {known}")
    return SklearnModel(signature, estimator)

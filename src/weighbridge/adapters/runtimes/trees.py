"""What the libraries of boosted trees have in common: a matrix of numbers in, scores for each row out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature

Score = Callable[[NDArray[np.float64]], NDArray[Any]]
"""Scores of shape (n,) or (n, k) for a matrix of n rows; of two classes, those of the second."""


_BINARY = 2


class TreeModel:
    """Boosted trees; with `classes` their scores are probabilities."""

    def __init__(self, signature: Signature, score: Score, classes: NDArray[Any] | None) -> None:
        self.signature = signature
        self._score = score
        self._classes = classes
        self._width = signature.outputs[-1].width

    def predict(self, batch: Batch) -> Outputs:
        """Score the rows, all at once."""
        matrix = batch.matrix()
        count = len(matrix)
        scores = self._score(matrix) if count else np.empty(0)
        if self._classes is None:
            return (scores.astype(np.float64).reshape((count,) if self._width is None else (count, self._width)),)
        if len(self._classes) == _BINARY:
            probabilities = np.array((1 - scores, scores), np.float64).T
        else:
            probabilities = scores.astype(np.float64).reshape(count, len(self._classes))
        return self._classes.take(probabilities.argmax(axis=1)), probabilities


def tree_model(signature: Signature, score: Score, *, features: int, classes: Sequence[int] | None = None) -> Model:
    """A model of trees that were grown on so many features.

    `classes` are integers for the scores of a classifier that has such; left out, they count from 0. Raises
    ModelRefused for a signature that the trees do not fit.
    """
    check_inputs(signature.inputs, features)
    width = score_width(score, features)
    label, *_ = signature.outputs
    if label.name != "label":
        _compare(signature.outputs, regression(width))
        return TreeModel(signature, score, None)
    count = max(width, _BINARY)
    known: Sequence[Any] = label.categories or ([False, True] if label.kind is Kind.BOOL else classes or range(count))
    if len(known) != count:
        raise ModelRefused(f"expected {count} classes, as many as the trees tell apart, got {len(known)}")
    _compare(signature.outputs, classification(known))
    return TreeModel(signature, score, np.array(known, object if label.categories else None))


def score_width(score: Score, features: int) -> int:
    """How many scores the trees give for a row."""
    return score(np.zeros((1, features))).size


def check_inputs(inputs: tuple[Column, ...], features: int) -> None:
    """Raises ModelRefused for columns that are not as many numbers as the trees take."""
    width = sum(column.width or 1 for column in inputs)
    if width != features:
        raise ModelRefused(f"expected {features} features, as many as the trees were grown on, got {width}")
    for column in inputs:
        if column.kind is Kind.STRING and column.categories is None:
            raise ModelRefused(f"expected numbers or categories in column {column.name}, got texts")


def check_categories(inputs: tuple[Column, ...], trained: Sequence[Sequence[Any] | None]) -> None:
    """Raises ModelRefused where the categories of a column are not the `trained` ones, in their order."""
    for column, categories in zip(inputs, trained, strict=True):
        if (column.categories is None) != (categories is None):
            raise ModelRefused(f"expected column {column.name} to have categories that are texts, as in training")
        if column.categories is not None and [*column.categories] != [*(categories or ())]:
            raise ModelRefused(
                f"expected the categories of column {column.name} in the order of training; take the example from the "
                "data that the model was fitted on"
            )


def regression(width: int) -> tuple[Column, ...]:
    """The output of what has no classes."""
    return (Column(name="prediction", kind=Kind.FLOAT, width=None if width == 1 else width),)


def classification(classes: Sequence[Any]) -> tuple[Column, ...]:
    """The outputs of a classifier. Raises ModelRefused for classes other than texts, integers and booleans."""
    label = Column(name="label", kind=Kind.INT)
    if all(isinstance(name, str) for name in classes):
        label = Column(name="label", kind=Kind.STRING, categories=tuple(classes))
    elif all(isinstance(value, bool) for value in classes):
        label = Column(name="label", kind=Kind.BOOL)
    elif not all(value == int(value) for value in classes):
        raise ModelRefused("the classes must be texts, integers or booleans")
    return label, Column(name="probabilities", kind=Kind.FLOAT, width=len(classes))


def _compare(stated: tuple[Column, ...], given: tuple[Column, ...]) -> None:
    if [_shape(column) for column in stated] != [_shape(column) for column in given]:
        expected = ", ".join(f"{column.name} of type {column.kind} and width {column.width}" for column in given)
        raise ModelRefused(f"the outputs must be those of the trees: {expected}")


def _shape(column: Column) -> tuple[str, Kind, int | None]:
    return column.name, column.kind, column.width

"""XGBoost's models, as its own UBJ or JSON."""

import ctypes
import json
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import Manifest
from weighbridge.adapters.runtimes import Packed, Trust
from weighbridge.adapters.runtimes.trees import (
    check_categories,
    check_inputs,
    classification,
    regression,
    score_width,
    tree_model,
)
from weighbridge.application.ports import Model
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column

_ESTIMATOR = "scikit_learn"
"""The attribute that XGBoost's scikit-learn estimators leave in a model which they save."""

_PROBABILITIES = ("binary:logistic", "binary:hinge", "multi:softprob")
"""Objectives whose scores are probabilities."""


_BLANKS = 64
"""How much of the end is looked at: JSON may have blanks there."""


def takes(model: object) -> bool:
    """Whether it is a Booster, or one of XGBoost's estimators."""
    names = {f"{base.__module__}.{base.__name__}" for base in type(model).__mro__}
    return not names.isdisjoint({"xgboost.core.Booster", "xgboost.sklearn.XGBModel"})


def pack(model: Any, inputs: tuple[Column, ...]) -> Packed:
    """A Booster, or a fitted estimator, as UBJ. Raises ModelRefused."""
    estimator = not isinstance(model, xgboost.Booster)
    if estimator and not np.isnan(model.missing):
        raise ModelRefused("a null becomes NaN, so the model must be fitted with missing=nan")
    booster = (model.get_booster() if estimator else model).copy()
    # an estimator predicts with the best iteration, a Booster with all of them: this mark tells `load` which it was
    booster.set_attr(**{_ESTIMATOR: "{}" if estimator else None})
    classifier = hasattr(model, "classes_")
    if classifier and _config(booster)["objective"]["name"] == "multi:softmax":
        booster.set_param({"objective": "multi:softprob"})  # the same trees, which now tell the probabilities
    scores = score_width(_score(_restored(booster)), booster.num_features())
    check_inputs(inputs, booster.num_features())
    _check_columns(booster, inputs)
    return Packed(
        bytes(booster.save_raw("ubj")),
        "model.ubj",
        _classes(model, booster, scores) if classifier else regression(scores),
        {"xgboost": xgboost.__version__},
    )


def load(artefact: Artefact, manifest: Manifest, trust: Trust) -> Model:
    """The model in UBJ or JSON, told by content. Raises ModelRefused, or what XGBoost does.

    A model that is wrong between its braces may still end the process: XGBoost trusts what it reads.
    """
    content = artefact.read()
    if not content.startswith(b"{") or not content[-_BLANKS:].rstrip().endswith(b"}"):  # it would read past the end
        raise ModelRefused("not a model of XGBoost in UBJ or JSON, which begins and ends with a brace")
    booster = xgboost.Booster({"nthread": trust.threads})
    booster.load_model(bytearray(content))
    return tree_model(manifest.signature(), _score(booster), features=booster.num_features())


class _Score:
    """Scores of a Booster, by the C API: the package's own call looks at so much that a row takes four times as long.

    Only for one thread at a time: the proxy holds the rows. XGBoost makes a new one for each call that brings none, and
    each looks for limits of the processor in a handful of files.
    """

    def __init__(self, booster: Any, iterations: tuple[int, int]) -> None:
        begin, end = iterations
        config = {"type": 0, "training": False, "iteration_begin": begin, "iteration_end": end, "missing": np.nan}
        self._config = json.dumps({**config, "strict_shape": False, "cache_id": 0}).encode()
        self._booster = booster
        self._proxy = xgboost.core._ProxyDMatrix()
        self._predict = xgboost.core._LIB.XGBoosterPredictFromDense

    def __call__(self, matrix: NDArray[np.float64]) -> NDArray[Any]:
        rows = np.ascontiguousarray(matrix)
        shape, dimensions, scores = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64(), ctypes.c_void_p()
        status = self._predict(
            self._booster.handle,
            b'{"data": [%d, true], "shape": [%d, %d], "typestr": "%b", "version": 3}'
            % (rows.ctypes.data, *rows.shape, rows.dtype.str.encode()),
            self._config,
            self._proxy.handle,
            ctypes.byref(shape),
            ctypes.byref(dimensions),
            ctypes.byref(scores),
        )
        xgboost.core._check_call(status)
        sizes = shape[: dimensions.value]
        return np.frombuffer(ctypes.string_at(scores, 4 * prod(sizes)), np.float32).reshape(sizes)


def _score(booster: Any) -> _Score:
    best = booster.attr("best_iteration") if booster.attr(_ESTIMATOR) else None
    if _config(booster)["gradient_booster"]["name"] == "gblinear":
        raise ModelRefused("the booster gblinear is not supported; package its weights as a linear model")
    return _Score(booster, (0, 0 if best is None else int(best) + 1))


def _restored(booster: Any) -> Any:
    restored = xgboost.Booster({"nthread": 1})
    restored.load_model(booster.save_raw("ubj"))
    return restored


def _config(booster: Any) -> Any:
    return json.loads(booster.save_config())["learner"]


def _classes(model: Any, booster: Any, scores: int) -> tuple[Column, ...]:
    objective = _config(booster)["objective"]["name"]
    if callable(model.objective) or objective not in _PROBABILITIES:
        raise ModelRefused(f"the objective of a classifier must be one of {', '.join(_PROBABILITIES)}")
    if objective.startswith("binary") and scores > 1:
        raise ModelRefused("a classifier of several labels is not supported; package one model for each label")
    return classification(range(max(scores, 2)))


def _check_columns(booster: Any, inputs: tuple[Column, ...]) -> None:
    names = booster.feature_names
    if names is None or inputs[0].width is not None:
        return
    if names != [column.name for column in inputs]:
        raise ModelRefused("the columns must be those of training, in the same order; take the example from that data")
    check_categories(inputs, _categories(booster))


def _categories(booster: Any) -> list[Sequence[Any] | None]:
    """For each feature the categories that it was trained with, None for one that has no such."""
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    encoded = trees.get("gbtree", trees)["model"]["cats"]["enc"]
    return [_decoded(column) for column in encoded] or [None] * booster.num_features()


def _decoded(column: dict[str, Any]) -> Sequence[Any] | None:
    if "offsets" not in column:
        return list(column["values"])
    text, offsets = bytes(byte % 256 for byte in column["values"]), column["offsets"]
    return [text[start:end].decode() for start, end in pairwise(offsets)] or None

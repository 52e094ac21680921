"""LightGBM's models, as its own text."""

import ctypes
import logging
import re
from typing import Any
from weakref import finalize

import lightgbm
import numpy as np
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

_CLASSES = re.compile(r"^weighbridge_classes=(-?\d+(?: -?\d+)*)\n", re.MULTILINE)
"""A line of the header: the integers that are the classes, of which LightGBM itself keeps only the number."""

_SIZES = re.compile(r"^tree_sizes=.*\n", re.MULTILINE)

_NORMAL, _FROM_THE_FIRST, _TO_THE_LAST, _FLOAT64 = 0, 0, -1, 1
"""Arguments of the C API: scores as the objective has them, of all iterations, for rows of doubles."""

_OBJECTIVES = ("binary", "multiclass", "multiclassova")
"""Objectives whose scores are probabilities."""


def takes(model: object) -> bool:
    """Whether it is a Booster, or one of LightGBM's estimators."""
    names = {f"{base.__module__}.{base.__name__}" for base in type(model).__mro__}
    return not names.isdisjoint({"lightgbm.basic.Booster", "lightgbm.sklearn.LGBMModel"})


def pack(model: Any, inputs: tuple[Column, ...]) -> Packed:
    """A Booster, or a fitted estimator, as text, up to its best iteration. Raises ModelRefused."""
    booster = model if isinstance(model, lightgbm.Booster) else model.booster_
    check_inputs(inputs, booster.num_feature())
    if inputs[0].width is None:
        trained = iter(booster.pandas_categorical or ())
        categorical = [column.categories is not None for column in inputs]
        if sum(categorical) != len(booster.pandas_categorical or ()):
            raise ModelRefused("columns that had categories in training must have categories that are texts")
        check_categories(inputs, [next(trained) if is_one else None for is_one in categorical])
    text = booster.model_to_string()
    outputs = regression(score_width(_Score(booster), booster.num_feature()))
    if hasattr(model, "classes_"):
        if model.objective_ not in _OBJECTIVES:
            raise ModelRefused(f"the objective of a classifier must be one of {', '.join(_OBJECTIVES)}")
        classes = model.classes_.tolist()
        outputs = classification(classes)
        if outputs[0].categories is None:
            numbers = " ".join(str(int(value)) for value in classes)
            text = text.replace("\n", f"\nweighbridge_classes={numbers}\n", 1)
    return Packed(text.encode(), "model.txt", outputs, {"lightgbm": lightgbm.__version__})


def load(artefact: Artefact, manifest: Manifest, trust: Trust) -> Model:
    """The model in a text. Raises ModelRefused, or what LightGBM does.

    A text that is wrong in the middle of a tree may still end the process: LightGBM trusts what it reads.
    """
    text = artefact.read().decode(errors="replace")
    if not text.startswith("tree\n") or "\nend of parameters\n" not in text:
        raise ModelRefused("not the text of a LightGBM model, up to the end of its parameters")
    lightgbm.register_logger(logging.getLogger("lightgbm"))  # else it writes to standard output
    classes = _CLASSES.search(text)
    # with their sizes known, LightGBM reads trees in threads, where its own errors end the process
    booster = lightgbm.Booster(model_str=_SIZES.sub("", text, count=1))
    return tree_model(
        manifest.signature(),
        _Score(booster, trust.threads),
        features=booster.num_feature(),
        classes=None if classes is None else [int(value) for value in classes[1].split()],
    )


_check = lightgbm.basic._safe_call


class _Score:
    """Scores of a Booster; of one row by a call of the C API that was made ready, which takes a seventh of the time.

    Only for one thread at a time.
    """

    def __init__(self, booster: Any, threads: int = 1) -> None:
        self._booster = booster
        self._threads = threads
        self._scores = ctypes.c_double * booster.num_model_per_iteration()
        self._ready = ctypes.c_void_p()
        library = lightgbm.libpath._LIB
        _check(
            library.LGBM_BoosterPredictForMatSingleRowFastInit(
                booster._handle,
                _NORMAL,
                _FROM_THE_FIRST,
                _TO_THE_LAST,
                _FLOAT64,
                booster.num_feature(),
                b"num_threads=%d" % threads,
                ctypes.byref(self._ready),
            )
        )
        self._predict_row = library.LGBM_BoosterPredictForMatSingleRowFast
        finalize(self, library.LGBM_FastConfigFree, self._ready)

    def __call__(self, matrix: NDArray[np.float64]) -> NDArray[Any]:
        if len(matrix) != 1:
            scores: NDArray[Any] = self._booster.predict(matrix, num_threads=self._threads)
            return scores
        row_scores, count = self._scores(), ctypes.c_int64()
        _check(self._predict_row(self._ready, matrix.tobytes(), ctypes.byref(count), row_scores))
        return np.frombuffer(row_scores)

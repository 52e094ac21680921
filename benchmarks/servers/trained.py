"""The models of the batched table. Each server fits its own when it starts: the same data and seed, so the same model.

The libraries are imported where they are used: a server has that of its own model only.
"""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL, ONNX, COUNTS = "TRAINED_MODEL", "TRAINED_ONNX", "TRAINED_COUNTS"
"""Variables with the name of the model, and the paths of the ONNX file and of two counts: calls, and their rows."""

MOST_ROWS = 64
WAIT_MS = {"litserve": 20, "mlserver": 5}
"""What the servers that collect requests are set to: the most rows of a call, and how long the first waits for more.

Of 1, 5 and 20 ms these gave the server the highest throughput with HistGradientBoosting. BentoML adapts by itself.
"""

Matrix = NDArray[np.float64]


class Trained:
    """The model that the environment names; calls and rows are counted where that says."""

    def __init__(self) -> None:
        self._score = _scorer(os.environ[MODEL])
        self._counts = np.memmap(os.environ[COUNTS], np.int64, "r+")

    def __call__(self, rows: Matrix) -> Matrix:
        """Probabilities of the two classes, for each row."""
        self._counts[0] += 1
        self._counts[1] += len(rows)
        return self._score(rows)


def _scorer(name: str) -> Callable[[Matrix], Matrix]:
    if name != "onnx":
        predict_proba: Callable[[Matrix], Matrix] = fitted(name).predict_proba
        return predict_proba
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(Path(os.environ[ONNX]).read_bytes(), options)
    [taken] = session.get_inputs()

    def score(rows: Matrix) -> Matrix:
        _, probabilities = session.run(None, {taken.name: rows.astype(np.float32)})
        return np.asarray(probabilities, np.float64)

    return score


_CLASSIFIERS: dict[str, tuple[str, str, dict[str, int]]] = {
    "boosting": ("sklearn.ensemble", "HistGradientBoostingClassifier", {}),
    "forest": ("sklearn.ensemble", "RandomForestClassifier", {"n_estimators": 100}),
    "xgboost": ("xgboost", "XGBClassifier", {"n_estimators": 100, "n_jobs": 1}),
    "lightgbm": ("lightgbm", "LGBMClassifier", {"n_estimators": 100, "n_jobs": 1, "verbose": -1}),
}


def fitted(name: str) -> Any:
    """A classifier of 30 columns by its name."""
    module, kind, options = _CLASSIFIERS[name]
    columns, classes = import_module("sklearn.datasets").load_breast_cancer(return_X_y=True)
    return getattr(import_module(module), kind)(**options, random_state=0).fit(columns, classes)

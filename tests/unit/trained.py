"""A small model of scikit-learn, for which runners answer."""

from pathlib import Path

import numpy as np
from sklearn.linear_model import LinearRegression

import weighbridge

NAME = "rent"
ROW = {"features": [3.0]}
ANSWER = 6.0
"""What it predicts of the row."""


def trained(directory: Path) -> Path:
    """A directory of models with its version 1."""
    rows = np.array([[0.0], [1.0], [2.0]])
    weighbridge.package(LinearRegression().fit(rows, [0.0, 2.0, 4.0]), directory / NAME / "1", example=rows)
    return directory

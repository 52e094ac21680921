"""A trained model without a library, as a directory that the service can be given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_MANIFEST = """
runtime = "python"
entry = "tests.integration.churn:Churn"

[[inputs]]
name = "age"
type = "int"
minimum = 18
maximum = 90

[[inputs]]
name = "signup month"
type = "string"
categories = ["June", "July"]

[[inputs]]
name = "income"
type = "float"
nullable = true

[[outputs]]
name = "label"
type = "string"

[[outputs]]
name = "probabilities"
type = "float"
width = 2

[[golden]]
input = { age = 30, "signup month" = "June" }
output = { label = "stays", probabilities = [0.3, 0.7] }
"""


class Churn:
    """The young go, and whoever is 13 is too much for it."""

    def predict(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        ages = columns["age"]
        if (ages == 13).any():
            raise ZeroDivisionError("the needle")
        goes = np.where(ages == 99, np.inf, ages / 100)
        return {
            "label": np.where(ages < 20, "goes", "stays").astype(object),
            "probabilities": np.stack([goes, 1 - goes], axis=1),
        }


def write_models(directory: Path, *versions: str) -> str:
    """A directory of models that has these versions of `churn`; its path."""
    for version in versions:
        (directory / "churn" / version).mkdir(parents=True)
        (directory / "churn" / version / "model.toml").write_text(_MANIFEST)
    return str(directory)

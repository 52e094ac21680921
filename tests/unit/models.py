"""Trained models that need no library, and a loader that has them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from weighbridge.domain.batch import DTYPES, Batch, Outputs
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature

AGE = Column(name="age", kind=Kind.INT, minimum=18, maximum=90)
MONTH = Column(name="signup_month", kind=Kind.STRING, categories=("June", "July"))
SCORE = Column(name="prediction", kind=Kind.FLOAT)
CHURN = Signature((AGE, MONTH), (SCORE,))


def outputs(signature: Signature, *columns: list[Any]) -> Outputs:
    """Columns as a model gives them."""
    return tuple(
        np.array(values, DTYPES[column.kind]) for column, values in zip(signature.outputs, columns, strict=True)
    )


class FakeModel:
    """A Model that does what it is told, and remembers its batches."""

    def __init__(self, signature: Signature, predict: Callable[[Batch], Outputs]) -> None:
        self.signature = signature
        self.seen: list[Batch] = []
        self._predict = predict

    def predict(self, batch: Batch) -> Outputs:
        self.seen.append(batch)
        return self._predict(batch)


def constant(signature: Signature, *row: Any) -> FakeModel:
    """A model that says the same of every row."""
    return FakeModel(signature, lambda batch: outputs(signature, *([value] * len(batch) for value in row)))


class FakeLoader:
    """A ModelLoader of these models, by name and version."""

    def __init__(self, models: Mapping[tuple[str, str], FakeModel]) -> None:
        self.models = dict(models)

    def load(self, name: str, version: str, _read: Any = None) -> FakeModel:
        """Load one version. Raises ModelRefused."""
        if (name, version) not in self.models:
            raise ModelRefused(f"models/{name}/{version}: expected a directory, got nothing")
        return self.models[name, version]

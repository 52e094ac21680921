"""The embedded linear model as one among the others."""

import numpy as np

from weighbridge.application.catalogue import EMBEDDED
from weighbridge.application.ports import Model, ModelLoader
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.scoring import score, score_rows
from weighbridge.domain.signature import Column, Kind, Signature
from weighbridge.domain.weights import Weights


class EmbeddedModel:
    """The Model of weights: one vector in, one number out, to the bit what `/predict` says."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.signature = Signature(
            (Column(name="features", kind=Kind.FLOAT, width=len(weights)),),
            (Column(name="prediction", kind=Kind.FLOAT),),
        )

    def predict(self, batch: Batch) -> Outputs:
        """Score rows of as many features as there are weights; what overflows is not finite."""
        if len(batch) == 1:
            return (np.array([score(batch.rows[0], self._weights, 1.0)]),)
        return (score_rows(batch.matrix(), self._weights, 1.0),)


class EmbeddedFirst:
    """The ModelLoader that has the embedded model itself, and leaves the others to another loader."""

    def __init__(self, embedded: Model, others: ModelLoader) -> None:
        self._embedded = embedded
        self._others = others

    def load(self, name: str, version: str) -> Model:
        """Load one version. Raises ModelRefused."""
        if name == EMBEDDED.name:
            return self._embedded
        return self._others.load(name, version)

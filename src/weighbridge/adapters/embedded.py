"""The embedded linear model as one among the others."""

from collections.abc import Callable

from weighbridge.adapters.runtimes.linear import LinearModel
from weighbridge.application.catalogue import EMBEDDED
from weighbridge.application.ports import Model, ModelLoader
from weighbridge.domain.signature import Column, Kind, Signature
from weighbridge.domain.weights import Weights


def embedded_model(weights: Weights) -> Model:
    """The Model of weights: one vector in, one number out, to the bit what `/predict` says."""
    features = Column(name="features", kind=Kind.FLOAT, width=len(weights))
    return LinearModel(Signature((features,), (Column(name="prediction", kind=Kind.FLOAT),)), weights)


class EmbeddedFirst:
    """The ModelLoader that has the embedded model itself, and leaves the others to another loader."""

    def __init__(self, embedded: Callable[[], Model], others: ModelLoader) -> None:
        self._embedded = embedded
        self._others = others

    def load(self, name: str, version: str) -> Model:
        """Load one version. Raises ModelRefused."""
        if name == EMBEDDED.name:
            return self._embedded()
        return self._others.load(name, version)

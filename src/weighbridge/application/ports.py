"""The ports: what the application needs from the outside, as adapters provide it."""

from typing import Any, Protocol

from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.signature import Signature
from weighbridge.domain.weights import Weights


class WeightsProvider(Protocol):
    """Where the weights of the embedded linear model come from."""

    def load(self) -> Weights:
        """Load the weights; called exactly once, at start-up. Raises InvalidWeights."""
        ...


class Model(Protocol):
    """A trained model, whatever library it comes from; one implementation for each runtime."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        ...

    def predict(self, batch: Batch) -> Outputs:
        """Score rows that fit the signature; raises FeatureTooLarge, or whatever its library does.

        Called by one thread at a time.
        """
        ...


class ModelLoader(Protocol):
    """Where trained models come from."""

    def load(self, name: str, version: str, read: Any = None) -> Model:
        """Load one version: its digest is checked, its golden rows compared, and it is warm.

        What it is made of has been `read` already, or is read now. Takes its time, and runs off the event loop.
        Raises ModelRefused.
        """
        ...

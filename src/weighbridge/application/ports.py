"""The ports: what the application needs from the outside, as adapters provide it."""

from asyncio import Future
from typing import Protocol

from weighbridge.domain.batch import Batch, Outputs, Rows
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

    def load(self, name: str, version: str) -> Model:
        """Load one version: its digest is checked, its golden rows compared, and it is warm.

        Takes its time, and runs off the event loop. Raises ModelRefused.
        """
        ...


class Scorer(Protocol):
    """Whoever has the rows of one version scored: here and now, or later by another process."""

    @property
    def signature(self) -> Signature:
        """What the version takes and gives."""
        ...

    def ask(self, rows: Rows) -> Outputs | Future[Outputs]:
        """The outputs for rows that fit the signature, now or later; to cancel the future takes the rows back.

        Raises FeatureTooLarge, ModelCrashed, ModelUnavailable, or whatever the model does.
        """
        ...

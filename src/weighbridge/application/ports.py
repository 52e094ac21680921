"""The ports: what the application needs from the outside, as adapters provide it."""

from typing import Protocol

from weighbridge.domain.weights import Weights


class WeightsProvider(Protocol):
    """Where the weights of the embedded linear model come from."""

    def load(self) -> Weights:
        """Load the weights; called exactly once, at start-up. Raises InvalidWeights."""
        ...

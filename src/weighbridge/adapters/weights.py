"""Weights that the operator gives as a setting."""

from weighbridge.domain.weights import Weights
from weighbridge.settings import Settings


class SettingsWeights:
    """The WeightsProvider of `WEIGHBRIDGE_WEIGHTS`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def load(self) -> Weights:
        """The weights that the settings hold. Raises InvalidWeights."""
        weights = self._settings.weights
        return Weights(() if weights == "off" else weights)

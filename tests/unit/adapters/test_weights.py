import pytest

from weighbridge.adapters.weights import SettingsWeights
from weighbridge.domain.errors import InvalidWeights
from weighbridge.domain.weights import Weights
from weighbridge.settings import Settings


def test_the_settings_provide_the_weights() -> None:
    assert SettingsWeights(Settings(weights=(1.0, -2.5))).load() == Weights((1.0, -2.5))


def test_settings_that_are_off_provide_none() -> None:
    with pytest.raises(InvalidWeights):
        SettingsWeights(Settings(weights="off")).load()

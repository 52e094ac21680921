"""What every test starts from."""

import os

import pytest
from hypothesis import settings

settings.register_profile("weighbridge", deadline=None, derandomize=True)
settings.load_profile("weighbridge")


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests are not theirs."""
    for name in os.environ:
        if name.upper().startswith("WEIGHBRIDGE_"):
            monkeypatch.delenv(name)

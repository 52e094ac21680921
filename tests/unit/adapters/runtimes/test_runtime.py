import sys

import pytest

from weighbridge.adapters.runtimes import linear, runtime
from weighbridge.domain.errors import ModelRefused


def test_a_runtime_is_found_by_its_name() -> None:
    assert runtime("linear").load is linear.load


def test_a_runtime_that_is_not_installed_says_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weighbridge.adapters.runtimes.sklearn", None)

    with pytest.raises(
        ModelRefused, match=r"^the runtime sklearn needs the package \S+; pip install 'weighbridge\[sklearn\]'"
    ):
        runtime("sklearn")

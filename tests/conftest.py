"""What every test starts from."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent
MEASURED = "COVERAGE_PROCESS_CONFIG"  # coverage measures each process of Python in whose environment it is

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when a library loads; threads that spin starve a busy machine
settings.register_profile("weighbridge", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("weighbridge")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Stop tracing the process that hands the tests out to others: it runs none, and would only be slower."""
    sys.settrace(None)


def pytest_collection_finish() -> None:
    """What was imported and collected stays, so that nothing is gained by looking there for garbage."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_settings_in_the_environment() -> None:
    """The settings of whoever runs the tests are not theirs."""
    others = {name: value for name, value in os.environ.items() if not name.upper().startswith("WEIGHBRIDGE_")}
    os.environ.clear()
    os.environ.update(others)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), others.get("PYTHONPATH"))))  # of models here


@pytest.fixture(scope="session", autouse=True)
def _configuration_of_coverage() -> str:
    """Not in the environment, so that the processes which tests start are not measured: it takes half of their time."""
    return os.environ.pop(MEASURED, "")


@pytest.fixture(scope="module")
def measured(_configuration_of_coverage: str) -> Iterator[None]:
    """The processes of a module are measured: for lines that no other process than those reaches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MEASURED, _configuration_of_coverage)
        yield

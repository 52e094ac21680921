"""What the tests of processes are given."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from structlog.typing import FilteringBoundLogger

from tests.unit.log import Log
from weighbridge.adapters.logs import start_logging
from weighbridge.adapters.system import priority


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gives way begins at once, instead of after 50 ms in which it looks how busy the machine is."""
    monkeypatch.setattr(priority, "_LOOK_SECONDS", 0.0)


@pytest.fixture
def logger(log: Log) -> Iterator[FilteringBoundLogger]:
    """A logger that writes to the log."""
    with contextmanager(start_logging)(log.descriptor, level="info", log_format="json") as logger:
        yield logger

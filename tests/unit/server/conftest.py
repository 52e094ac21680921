"""What the tests of processes are given."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from structlog.typing import FilteringBoundLogger

from tests.unit.log import Log
from weighbridge.adapters.logs import start_logging


@pytest.fixture
def logger(log: Log) -> Iterator[FilteringBoundLogger]:
    """A logger that writes to the log."""
    with contextmanager(start_logging)(log.descriptor, level="info", log_format="json") as logger:
        yield logger

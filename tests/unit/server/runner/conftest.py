"""What the tests of runners are given."""

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from tests.unit.server.runner.looped import Looped


@pytest.fixture
def loop() -> Iterator[Looped]:
    """The event loop that the service has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield Looped(runner)

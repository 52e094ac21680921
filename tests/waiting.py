"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable

DEADLINE = 20.0  # seconds; far more than anything here takes on a busy machine


def until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.002)

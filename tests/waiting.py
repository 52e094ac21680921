"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable

DEADLINE = 20.0  # seconds; far more than anything here takes on a busy machine


def until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        assert waited < DEADLINE, "the condition did not come true in time"
        time.sleep(0.002 + waited / 20)  # to ask all the time slows down what is waited for

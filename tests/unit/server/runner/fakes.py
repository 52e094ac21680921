"""Runners and nurseries that are no processes."""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

from weighbridge.server.runner.orders import Order, Report
from weighbridge.server.runner.process import Ending

_SERIALS = count(1)
_PIDS = count(4712)


class FakeRunner:
    """A RunnerProcess of which a test says what becomes of it."""

    def __init__(self, order: Order | None = None, instance: int = 0) -> None:
        self.order = order
        self.serial = next(_SERIALS)
        self.instance = instance
        self.pid = 4711
        self.age = 1.0
        self.busy_seconds = 0.0
        self.counts: dict[str, Any] = {"calls": 2, "rows": 3, "busy_seconds": 0.5}
        loop = asyncio.get_running_loop()
        self.report: asyncio.Future[Report] = loop.create_future()
        self.ended: asyncio.Future[Ending] = loop.create_future()
        self.retired = False
        self.killed: str | bool = False

    def retire(self) -> None:
        self.retired = True

    def kill(self, verdict: str | None = None) -> None:
        self.killed = verdict or True

    def die(self, words: str = "was killed by signal 9 (Killed)", *, with_nursery: bool = False) -> None:
        """Come to its end."""
        self.ended.set_result(Ending(words, of_memory=False, with_nursery=with_nursery))


class FakeNursery:
    """A Nursery that remembers the runners that came from it."""

    def __init__(self, runtime: str, *_: object) -> None:
        self.runtime = runtime
        self.pid = next(_PIDS)
        self.on_end: Callable[[], None] = lambda: None
        self.idle_seconds = 0.0
        self.closed = False

    def close(self) -> None:
        self.closed = True
        self.on_end()

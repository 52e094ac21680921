"""A version that was opened, and its runners: watched, and replaced when they end."""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic

from structlog.typing import FilteringBoundLogger

from weighbridge.adapters.manifest import Options
from weighbridge.adapters.runners.terms import Board, Placed
from weighbridge.application.catalogue import Calls
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.runner.orders import Order, Report
from weighbridge.server.runner.process import Ending, RunnerProcess

_MOST_DEATHS = 5
_DEATHS_SECONDS = 60.0
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 300.0

Start = Callable[[int], Awaitable[RunnerProcess]]
"""Gives the runner in this place, once it has opened the version. Raises ModelRefused."""


class Hosted:
    """A version that was opened: `placed` says where it is called. By its runners, unless that is inline.

    A runner that ends is replaced at once. After the fifth death in a minute it is replaced only after 1, 2, 4 ...
    300 s, until one has lived for a minute; when none is left meanwhile, the version is out of service, and
    `unavailable` is why. `came` is told of each runner that took the place of another, `gone` of a version that is out
    of service.
    """

    def __init__(
        self, order: Order, options: Options, placed: Placed, report: Report, board: int | None, start: Start
    ) -> None:
        self.order = order
        self.options = options
        self.placed = placed
        self.report = report
        self.board = board
        self.runners: dict[int, RunnerProcess] = {}
        self.crashes = 0
        self.unavailable: str | None = None
        self.retired = False
        self.came: Callable[[Hosted, RunnerProcess], None] = lambda *_: None
        self.gone: Callable[[Hosted], None] = lambda _: None
        self.ended: Callable[[Hosted], None] = lambda _: None
        self.logger: FilteringBoundLogger | None = None
        self._start = start
        self._deaths: deque[float] = deque(maxlen=_MOST_DEATHS)
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._retries: dict[int, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Of the model."""
        return self.order.name

    @property
    def version(self) -> str:
        """Which one of the model."""
        return self.order.version

    @property
    def number(self) -> int:
        """Of this opening of the version; 0 where it is called inline."""
        return 0 if self.placed.terms is None else self.placed.terms.number

    @property
    def ready(self) -> list[RunnerProcess]:
        """The runners that can be asked."""
        return [runner for runner in self.runners.values() if runner.report.done()]

    @property
    def in_hand(self) -> tuple[int, int]:
        """Requests and rows that wait for the runners, or are with them."""
        if self.board is None:
            return 0, 0
        return Board(os.pread(self.board, os.fstat(self.board).st_size, 0)).total()

    def entry(self) -> Calls:
        """What the catalogue says of it."""
        placement = "thread" if self.placed.in_thread else "inline" if self.placed.terms is None else "runner"
        return Calls(
            placement,
            self.options.instances if placement == "runner" else 0,
            self.report.golden > 1,
            round(self.report.call_seconds, 7),
            round(self.report.row_seconds, 9),
        )

    def join(self, runner: RunnerProcess) -> None:
        """Have a runner answer for the version, and replaced when it ends."""
        self.runners[runner.instance] = runner
        runner.ended.add_done_callback(lambda ended: self._died(runner, ended.result()))

    def check(self) -> None:
        """Raises ModelRefused where a runner has ended since the version was opened."""
        if self.crashes:
            raise ModelRefused(f"models/{self.name}/{self.version}: the process that opened it has ended")

    async def revive(self) -> None:
        """Start what is out of service anew. Raises ModelRefused."""
        if self.unavailable is None:
            return
        self._deaths.clear()
        self._retry_seconds = _FIRST_RETRY_SECONDS
        await self._replace(0)
        if self.unavailable is not None:
            raise ModelRefused(f"models/{self.name}/{self.version}: {self.unavailable}")

    def retire(self) -> None:
        """Have the runners end once nobody asks them any more."""
        self.retired = True
        for retry in self._retries.values():
            retry.cancel()
        for runner in self.runners.values():
            runner.retire()
        if not self.runners:
            self._end()

    def close(self) -> None:
        """Replace no runner any more, and give up what is held."""
        self.retired = True
        for retry in self._retries.values():
            retry.cancel()
        for task in self._tasks:
            task.cancel()
        self._end()

    def _died(self, runner: RunnerProcess, ending: Ending) -> None:
        del self.runners[runner.instance]
        if self.retired:
            if not self.runners:
                self._end()
            return
        self.crashes += 1
        self._tell("runner_died", runner=runner.instance, reason=ending.words)
        if runner.age > _DEATHS_SECONDS:
            self._retry_seconds = _FIRST_RETRY_SECONDS
        if not ending.with_nursery:  # it is not the model's fault, and takes all of them at once
            self._deaths.append(monotonic())
        if self._retry_seconds > _FIRST_RETRY_SECONDS or self._dies_often():
            self._replace_later(runner.instance, ending.words)
        else:
            self._begin(runner.instance)

    def _dies_often(self) -> bool:
        return len(self._deaths) == _MOST_DEATHS and monotonic() - self._deaths[0] < _DEATHS_SECONDS

    def _replace_later(self, instance: int, reason: str) -> None:
        """Have a runner in this place after a while, which is longer each time."""
        delay, self._retry_seconds = self._retry_seconds, min(2 * self._retry_seconds, _LONGEST_RETRY_SECONDS)
        former = self._retries.pop(instance, None)
        if former is not None:
            former.cancel()
        self._retries[instance] = asyncio.get_running_loop().call_later(delay, self._begin, instance)
        if not self.ready:
            self.unavailable = f"its process {reason}"
            self._tell("model_unavailable", reason=self.unavailable, retry_in=delay)
            self.gone(self)

    def _begin(self, instance: int) -> None:
        task = asyncio.ensure_future(self._replace(instance))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, instance: int) -> None:
        """Have a runner in the place of one that has ended, now if that is possible."""
        try:
            runner = await self._start(instance)
        except ModelRefused as exc:
            if not self.retired:
                self._tell("runner_not_replaced", runner=instance, reason=str(exc))
                self._replace_later(instance, "could not be replaced; the log has the reason")
            return
        if self.retired or instance in self.runners:
            runner.kill()
            return
        retry = self._retries.pop(instance, None)
        if retry is not None:
            retry.cancel()
        self.join(runner)
        if self.unavailable is not None:
            self.unavailable = None
            self._tell("model_available")
        self.came(self, runner)

    def _tell(self, event: str, **more: object) -> None:
        if self.logger is not None:
            log = self.logger.info if event == "model_available" else self.logger.error
            log(event, model=self.name, version=self.version, **more)

    def _end(self) -> None:
        if self.board is not None:
            os.close(self.board)
            self.board = None
        self.ended(self)

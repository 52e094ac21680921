"""The runners of a service: started when a version is opened, watched, and replaced when they end."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import Any

from prometheus_client.metrics_core import Metric
from structlog.typing import FilteringBoundLogger

from weighbridge.adapters.manifest import Manifest, Options
from weighbridge.adapters.process_metrics import RunnerStatus, runner_families
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runners.terms import Board, Placed, Terms
from weighbridge.application.catalogue import Calls
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.opening import Models
from weighbridge.server.runner.machine import memory_limit, usable_cores
from weighbridge.server.runner.orders import Order, Report
from weighbridge.server.runner.process import Ending, Nursery, RunnerProcess
from weighbridge.server.yielding import aside
from weighbridge.settings import Settings

INLINE = ("linear", "onnx", "xgboost", "lightgbm")
"""Runtimes whose models workers may call: their formats are data only, and one row is soon done."""

_QUICK_SECONDS = 0.0002
_TICK_SECONDS = 0.25
_MOST_DEATHS = 5
_DEATHS_SECONDS = 60.0
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 300.0
_SLOTS_PER_WORKER = 4  # those that retire have theirs for a while
_IDLE_NURSERY_SECONDS = 60.0
_HEEDED = ("load_memory_bytes", "load_timeout", "python_models", "trusted_types", "workers")
"""Settings that nurseries have from their start."""


@dataclass(slots=True)
class Hosted:
    """A version that was opened: `placed` says where it is called. By `runners`, unless that is inline.

    `unavailable` is why it is out of service.
    """

    name: str
    version: str
    options: Options
    order: Order
    runtime: str
    placed: Placed
    report: Report
    board: int | None = None
    runners: dict[int, RunnerProcess] = field(default_factory=dict)
    crashes: int = 0
    unavailable: str | None = None
    retired: bool = False
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_DEATHS))
    retry_seconds: float = _FIRST_RETRY_SECONDS
    retrying: asyncio.TimerHandle | None = None

    @property
    def number(self) -> int:
        """Of this opening of the version; 0 where it is called inline."""
        return 0 if self.placed.terms is None else self.placed.terms.number

    @property
    def ready(self) -> list[RunnerProcess]:
        """The runners that can be asked."""
        return [runner for runner in self.runners.values() if runner.report.done()]

    def entry(self) -> Calls:
        """What the catalogue says of it."""
        report, inline = self.report, self.placed.terms is None
        return Calls(
            "inline" if inline else "runner",
            0 if inline else self.options.instances,
            report.golden > 1,
            round(report.call_seconds, 7),
            round(report.row_seconds, 9),
        )


@dataclass(frozen=True, slots=True)
class RunnerReport:
    """A runner as operators see it."""

    model: str
    version: str
    runner: int
    pid: int | None
    age_seconds: float
    calls: int
    rows: int
    busy_seconds: float


class Runners:
    """Opens versions, each in a process that stays to answer, or that ends where workers may call the version.

    `came` is told of each runner that takes the place of another, `gone` of a version that is out of service. On one
    event loop, which it never blocks.
    """

    def __init__(self, settings: Settings, logger: FilteringBoundLogger) -> None:
        self.settings = settings
        self.came: Callable[[Hosted, RunnerProcess], None] = lambda *_: None
        self.gone: Callable[[Hosted], None] = lambda _: None
        self._logger = logger
        self._repository = Repository(settings.models, settings.load_memory_bytes, settings.load_timeout)
        self._nurseries: dict[str, Nursery] = {}
        self._former_nurseries: list[Nursery] = []
        self._hosted: dict[int, Hosted] = {}
        self._numbers = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._closed = False

    # What is asked of it

    async def open(self, name: str, version: str, options: Options) -> Hosted:
        """Open a version with these options. Raises ModelRefused."""
        manifest = await self._manifest(name, version)
        order = self._order(name, version, manifest, options)
        first = self._start(manifest.runtime, order, 0)
        hosted = None
        try:
            report = await self._opened(first, order)
            hosted = self._placed(order, manifest, options, report)
            if hosted.placed.terms is not None:
                self._hosted[hosted.number] = hosted
                self._join(hosted, first)
                others = [self._start(manifest.runtime, order, place) for place in range(1, options.instances)]
                for runner in others:
                    self._join(hosted, runner)
                await asyncio.gather(*(self._opened(runner, order) for runner in others))
            return hosted
        except BaseException:
            if hosted is not None:
                self.retire(hosted)
            first.kill()
            raise
        finally:
            if hosted is not None and hosted.placed.terms is None:
                first.kill()
            self._tick_on()

    def heed(self, settings: Settings) -> bool:
        """Open versions with these settings from now on; whether those that are open would be opened otherwise."""
        former, self.settings = self.settings, settings
        if all(getattr(former, name) == getattr(settings, name) for name in _HEEDED):
            return False
        self._repository = Repository(settings.models, settings.load_memory_bytes, settings.load_timeout)
        self._former_nurseries += self._nurseries.values()
        self._nurseries = {}
        return True

    def broken(self, number: int, instance: int, reason: str) -> None:
        """A runner sent a worker what it may not: it counts as crashed."""
        hosted = self._hosted.get(number)
        if hosted is not None and instance in hosted.runners:
            hosted.runners[instance].kill(f"sent what no runner does: {reason}")

    def clear(self, slot: int) -> None:
        """Forget what a worker that is gone had in hand for runners."""
        for hosted in self.hosted:
            if hosted.board is not None and slot < self._slots:
                os.pwrite(hosted.board, bytes(Board.size(1)), Board.size(slot))

    async def revive(self, hosted: Hosted) -> None:
        """Start the runners of a version that is out of service anew. Raises ModelRefused."""
        if hosted.unavailable is None:
            return
        hosted.deaths.clear()
        await self._replace(hosted, 0)
        if hosted.unavailable is not None:
            raise ModelRefused(f"models/{hosted.name}/{hosted.version}: {hosted.unavailable}")

    def retire(self, hosted: Hosted) -> None:
        """Have the runners of a version end once nobody asks them any more."""
        hosted.retired = True
        if hosted.retrying is not None:
            hosted.retrying.cancel()
        for runner in hosted.runners.values():
            runner.retire()
            if not runner.report.done():
                runner.kill()
        if not hosted.runners:
            self._forget(hosted)

    def reports(self) -> list[RunnerReport]:
        """A report on each runner."""
        return [
            RunnerReport(
                hosted.name,
                hosted.version,
                runner.instance,
                runner.pid,
                round(runner.age, 3),
                runner.vitals.calls,
                runner.vitals.rows,
                round(runner.vitals.busy, 3),
            )
            for hosted in self._hosted.values()
            for runner in hosted.runners.values()
        ]

    @property
    def hosted(self) -> list[Hosted]:
        """All that runners answer for."""
        return list(self._hosted.values())

    async def close(self) -> None:
        """End all runners, at once."""
        self._closed = True
        if self._ticking is not None:
            self._ticking.cancel()
        for hosted in self.hosted:
            if hosted.retrying is not None:
                hosted.retrying.cancel()
        for task in self._tasks:
            task.cancel()
        for nursery in [*self._nurseries.values(), *self._former_nurseries]:
            nursery.close()
        for hosted in self.hosted:
            self._forget(hosted)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Opening

    async def _manifest(self, name: str, version: str) -> Manifest:
        """Raises ModelRefused."""
        try:
            return await aside(lambda: self._repository.manifest(name, version))
        except (OSError, MemoryError) as exc:
            got = f"{type(exc).__name__}: {exc}"
            raise ModelRefused(f"models/{name}/{version}: expected to be read, got {got}") from exc

    def _order(self, name: str, version: str, manifest: Manifest, options: Options) -> Order:
        others = sum(hosted.options.instances for hosted in self._hosted.values() if not hosted.retired)
        share = max(1, usable_cores() // (self.settings.workers + others + options.instances))
        return Order(
            name,
            version,
            manifest.render().decode(),
            options.threads or share,
            min(options.memory or self.settings.load_memory_bytes, memory_limit()),
            options.max_batch_rows,
            options.repeat,
        )

    def _placed(self, order: Order, manifest: Manifest, options: Options, report: Report) -> Hosted:
        """Where a version is called that was opened. Raises ModelRefused."""
        may_be_inline = manifest.runtime in INLINE and report.golden > 0
        if options.placement == "inline" and not may_be_inline:
            runtimes = ", ".join(INLINE)
            raise ModelRefused(
                f"models/{order.name}/rollout.toml: placement: inline is for models of {runtimes} with golden rows; "
                "leave placement out, or say runner"
            )
        quick = manifest.runtime == "linear" or report.one_row_seconds < _QUICK_SECONDS
        inline = may_be_inline and (options.placement == "inline" or (options.placement is None and quick))
        if inline:
            placed, board = Placed(order.version, report.slice_rows), None
        else:
            terms = Terms(
                next(self._numbers),
                options.instances,
                options.max_batch_rows,
                report.golden > 1,
                report.call_seconds,
                report.row_seconds,
            )
            placed, board = Placed(order.version, report.slice_rows, terms, order.manifest), self._board(order)
        return Hosted(order.name, order.version, options, order, manifest.runtime, placed, report, board)

    def _board(self, order: Order) -> int:
        try:
            board = os.memfd_create("weighbridge-board", os.MFD_CLOEXEC)
            os.ftruncate(board, Board.size(self._slots))
        except OSError as exc:
            raise _no_process(order, exc) from exc
        return board

    @property
    def _slots(self) -> int:
        return _SLOTS_PER_WORKER * max(1, self.settings.workers)

    def _start(self, runtime: str, order: Order, instance: int) -> RunnerProcess:
        """A runner that opens its version from now on. Raises ModelRefused."""
        try:
            nursery = self._nurseries.get(runtime)
            if nursery is None:
                nursery = self._nurseries[runtime] = Nursery(runtime, self.settings)
                nursery.on_end = lambda: self._lost(nursery)
            return RunnerProcess(nursery, order, instance)
        except OSError as exc:
            raise _no_process(order, exc) from exc

    async def _opened(self, runner: RunnerProcess, order: Order) -> Report:
        """What a runner tells of the version that it has opened. Raises ModelRefused."""
        try:
            async with asyncio.timeout(self.settings.load_timeout):
                return await asyncio.shield(runner.report)
        except TimeoutError as exc:
            runner.kill()
            path = f"models/{order.name}/{order.version}"
            limit = f"{self.settings.load_timeout:g} seconds, WEIGHBRIDGE_LOAD_TIMEOUT"
            raise ModelRefused(f"{path}: expected to be opened within {limit}, got no end") from exc

    # Watching

    def _join(self, hosted: Hosted, runner: RunnerProcess) -> None:
        """Have a runner replaced when it ends."""
        hosted.runners[runner.instance] = runner
        runner.ended.add_done_callback(lambda ended: self._died(hosted, runner, ended.result()))

    def _died(self, hosted: Hosted, runner: RunnerProcess, ending: Ending) -> None:
        del hosted.runners[runner.instance]
        if hosted.retired or self._closed:
            if not hosted.runners:
                self._forget(hosted)
            return
        hosted.crashes += 1
        now = monotonic()
        hosted.deaths.append(now)
        self._logger.error(
            "runner_died", model=hosted.name, version=hosted.version, runner=runner.instance, reason=ending.words
        )
        if len(hosted.deaths) == _MOST_DEATHS and now - hosted.deaths[0] < _DEATHS_SECONDS:
            self._put_out(hosted, ending.words)
        elif hosted.unavailable is None:
            self._begin(self._replace(hosted, runner.instance))

    def _put_out(self, hosted: Hosted, reason: str) -> None:
        """Have a version out of service, and look later whether it can be had again."""
        delay, hosted.retry_seconds = hosted.retry_seconds, min(2 * hosted.retry_seconds, _LONGEST_RETRY_SECONDS)
        hosted.unavailable = f"its process {reason}"
        self._logger.error(
            "model_unavailable",
            model=hosted.name,
            version=hosted.version,
            reason=hosted.unavailable,
            retry_in=delay,
        )
        loop = asyncio.get_running_loop()
        hosted.retrying = loop.call_later(delay, lambda: self._begin(self._replace(hosted, 0)))
        self.gone(hosted)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, hosted: Hosted, instance: int) -> None:
        """Have a runner in the place of one that has ended; without success the version is out of service."""
        try:
            runner = self._start(hosted.runtime, hosted.order, instance)
            await self._opened(runner, hosted.order)
        except ModelRefused as exc:
            self._put_out(hosted, f"could not be replaced: {exc}")
            return
        if hosted.retired or instance in hosted.runners:
            runner.kill()
            return
        self._join(hosted, runner)
        if hosted.unavailable is not None:
            hosted.unavailable = None
            self._logger.info("model_available", model=hosted.name, version=hosted.version)
            for other in range(hosted.options.instances):
                if other not in hosted.runners:
                    self._begin(self._replace(hosted, other))
        self.came(hosted, runner)

    def _lost(self, nursery: Nursery) -> None:
        """Forget a nursery that has ended."""
        if self._nurseries.get(nursery.runtime) is nursery:
            del self._nurseries[nursery.runtime]
        else:
            self._former_nurseries.remove(nursery)

    def _forget(self, hosted: Hosted) -> None:
        terms = hosted.placed.terms
        if terms is not None:
            self._hosted.pop(terms.number, None)
        if hosted.board is not None:
            os.close(hosted.board)
            hosted.board = None

    def _tick_on(self) -> None:
        if self._ticking is None and not self._closed and (self._nurseries or self._former_nurseries):
            self._ticking = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        """End the runners whose call takes too long, and the nurseries that nobody needs."""
        self._ticking = None
        for hosted in self.hosted:
            limit = hosted.options.call_timeout or self.settings.call_timeout
            for runner in hosted.runners.values():
                if runner.busy_seconds > limit:
                    runner.kill(f"was in one call for more than {limit:g} s, the call_timeout")
        for nursery in [*self._nurseries.values(), *self._former_nurseries]:
            if nursery.idle_seconds > _IDLE_NURSERY_SECONDS:
                nursery.close()
        self._tick_on()

    def families(self) -> Iterator[Metric]:
        """The families of series about runners."""
        return runner_families(
            [
                RunnerStatus(
                    hosted.name,
                    hosted.version,
                    runner.instance,
                    runner.pid,
                    runner.vitals.calls,
                    runner.vitals.rows,
                    runner.vitals.busy,
                )
                for hosted in self.hosted
                for runner in hosted.runners.values()
            ],
            {(hosted.name, hosted.version): hosted.crashes for hosted in self.hosted},
            {(hosted.name, hosted.version): hosted.unavailable is None for hosted in self.hosted},
        )


def connect(models: Models, hosted: Hosted, runner: RunnerProcess) -> None:
    """Have the models of this very process ask a runner of a version."""
    end = runner.meet()
    if end is not None and hosted.board is not None:
        models.connect(hosted.number, end, runner.instance, os.dup(hosted.board), 0)


def _no_process(order: Order, exc: OSError) -> ModelRefused:
    reason = exc.strerror or str(exc)
    return ModelRefused(f"models/{order.name}/{order.version}: expected a process to open it in, got none: {reason}")

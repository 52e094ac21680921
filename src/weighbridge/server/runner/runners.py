"""The runners of a service: started when a version is opened, watched, and replaced when they end."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from prometheus_client.metrics_core import Metric
from structlog.typing import FilteringBoundLogger

from weighbridge.adapters.manifest import CODE, Manifest, Options
from weighbridge.adapters.process_metrics import HostedStatus, RunnerStatus, runner_families
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runners.terms import Board, Placed, Terms
from weighbridge.adapters.system.machine import memory_limit, usable_cores
from weighbridge.adapters.system.memory import shared
from weighbridge.adapters.system.priority import aside
from weighbridge.adapters.system.processes import NEEDED, can_be_started
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.edge.opening import Models
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.orders import Order, Report
from weighbridge.server.runner.process import Nursery, RunnerProcess
from weighbridge.settings import NO_RIGHTS, Rights, Settings

INLINE = ("linear", "onnx", "xgboost", "lightgbm")
"""Runtimes whose models workers may call: their formats are data only, and one row is soon done."""

_QUICK_SECONDS = 0.0002
_TICK_SECONDS = 0.25
_SLOTS_PER_WORKER = 4  # those that retire have theirs for a while
_IDLE_NURSERY_SECONDS = 60.0
_HEEDED = ("grants", "load_memory_bytes", "load_timeout", "python_models", "sandbox", "trusted_types", "workers")
"""Settings that nurseries have from their start."""


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

    Where no process can be started, whoever is to call a version opens it, too.

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
        self._coming = 0
        self._ticking: asyncio.TimerHandle | None = None
        self._closed = False
        self._told = False

    # What is asked of it

    async def open(self, name: str, version: str, options: Options) -> Hosted:
        """Open a version with these options. Raises ModelRefused."""
        manifest = await self._manifest(name, version)
        self._coming += options.instances
        try:
            return await self._open(self._order(name, version, manifest, options), manifest, options)
        finally:
            self._coming -= options.instances

    async def _open(self, order: Order, manifest: Manifest, options: Options) -> Hosted:
        if not can_be_started():
            return self._in_thread(order, manifest, options)
        first = await self._started(manifest.runtime, order, 0)
        hosted, starting = None, list[asyncio.Task[RunnerProcess]]()
        try:
            hosted = self._placed(order, manifest, options, first.report.result())
            if hosted.placed.terms is None:
                first.kill()
                return hosted
            places = range(1, options.instances)
            starting += (asyncio.ensure_future(self._started(manifest.runtime, order, place)) for place in places)
            others = await asyncio.gather(*starting)
            self._hosted[hosted.number] = hosted
            for runner in (first, *others):
                hosted.join(runner)
            return hosted
        except BaseException:
            first.kill()
            for task in starting:
                task.cancel()
                task.add_done_callback(_kill)
            if hosted is not None:
                hosted.close()
            raise

    def _in_thread(self, order: Order, manifest: Manifest, options: Options) -> Hosted:
        """A version that this process opens and calls itself."""
        if not self._told:
            self._told = True
            self._logger.warning("models_not_confined", reason=NEEDED)
        unmeasured = Report(0, 0.0, 0.0)
        return self._hosting(order, manifest, options, Placed(order.version, in_thread=True), unmeasured, None)

    def heed(self, settings: Settings) -> bool:
        """Open versions with these settings from now on; whether those that are open would be opened otherwise."""
        former, self.settings = self.settings, settings
        if all(getattr(former, name) == getattr(settings, name) for name in _HEEDED):
            return False
        self._repository = Repository(settings.models, settings.load_memory_bytes, settings.load_timeout)
        self._former_nurseries += self._nurseries.values()
        self._nurseries = {}
        return True

    def broken(self, number: int, serial: int, reason: str) -> None:
        """A runner sent a worker what it may not: it counts as crashed."""
        hosted = self._hosted.get(number)
        for runner in () if hosted is None else hosted.runners.values():
            if runner.serial == serial:
                runner.kill(f"sent what no runner does: {reason}")

    def clear(self, slot: int) -> None:
        """Forget what a worker that is gone had in hand for runners."""
        for hosted in self.hosted:
            if hosted.board is not None and slot < self._slots:
                os.pwrite(hosted.board, bytes(Board.size(1)), Board.size(slot))

    def reports(self) -> list[RunnerReport]:
        """A report on each runner."""
        return [
            RunnerReport(*_of(hosted), runner.instance, runner.pid, round(runner.age, 3), **runner.counts)
            for hosted in self._hosted.values()
            for runner in hosted.runners.values()
        ]

    @property
    def hosted(self) -> list[Hosted]:
        """All that runners answer for."""
        return list(self._hosted.values())

    def close(self) -> None:
        """End all runners, at once."""
        self._closed = True
        if self._ticking is not None:
            self._ticking.cancel()
        for hosted in self.hosted:
            hosted.close()
        for nursery in self._all_nurseries:
            nursery.close()

    # Opening

    async def _manifest(self, name: str, version: str) -> Manifest:
        """Raises ModelRefused."""
        try:
            return await aside(lambda: self._repository.manifest(name, version))
        except (OSError, MemoryError) as exc:
            got = f"{type(exc).__name__}: {exc}"
            raise ModelRefused(f"models/{name}/{version}: reading failed: {got}") from exc

    def _order(self, name: str, version: str, manifest: Manifest, options: Options) -> Order:
        """Raises ModelRefused."""
        _check_rights(name, manifest, options.rights, self.settings.grants)
        others = sum(hosted.options.instances for hosted in self._hosted.values() if not hosted.retired)
        share = max(1, usable_cores() // (self.settings.workers + others + self._coming))
        return Order(
            name,
            version,
            manifest.render().decode(),
            options.threads or share,
            min(options.memory or self.settings.load_memory_bytes, memory_limit()),
            options.max_batch_rows,
            options.repeat,
            options.rights,
        )

    def _placed(self, order: Order, manifest: Manifest, options: Options, report: Report) -> Hosted:
        """Where a version is called that was opened. Raises ModelRefused."""
        trusted = INLINE[:1] if self.settings.sandbox == "require" else INLINE
        may_be_inline = manifest.runtime in trusted and report.golden > 0
        if options.placement == "inline" and not may_be_inline:
            runtimes = ", ".join(trusted)
            raise ModelRefused(
                f"models/{order.name}/rollout.toml: placement: inline is for models of {runtimes} with golden rows; "
                "leave placement out, or say runner"
            )
        quick = manifest.runtime == "linear" or report.one_row_seconds < _QUICK_SECONDS
        inline = may_be_inline and (options.placement == "inline" or (options.placement is None and quick))
        if inline:
            # Only where rows were seen to get the same answers alone and together may a request be cut.
            cut = report.golden > 1 or manifest.runtime == "linear"
            placed, board = Placed(order.version, report.slice_rows if cut else sys.maxsize), None
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
        return self._hosting(order, manifest, options, placed, report, board)

    def _hosting(
        self, order: Order, manifest: Manifest, options: Options, placed: Placed, report: Report, board: int | None
    ) -> Hosted:
        hosted = Hosted(
            order, options, placed, report, board, lambda place: self._started(manifest.runtime, order, place)
        )
        hosted.came, hosted.gone, hosted.ended, hosted.logger = self.came, self.gone, self._forget, self._logger
        return hosted

    def _board(self, order: Order) -> int:
        try:
            return shared("board", Board.size(self._slots))
        except OSError as exc:
            raise _no_process(order, exc) from exc

    @property
    def children(self) -> set[int]:
        """The processes that it has started itself."""
        return {nursery.pid for nursery in self._all_nurseries}

    @property
    def _all_nurseries(self) -> list[Nursery]:
        return [*self._nurseries.values(), *self._former_nurseries]

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

    async def _started(self, runtime: str, order: Order, instance: int) -> RunnerProcess:
        """A runner that has opened its version. Raises ModelRefused."""
        runner = self._start(runtime, order, instance)
        self._tick_on()
        try:
            async with asyncio.timeout(self.settings.load_timeout):
                await asyncio.shield(runner.report)
                return runner
        except TimeoutError as exc:
            runner.kill()
            path = f"models/{order.name}/{order.version}"
            limit = f"{self.settings.load_timeout:g} seconds (WEIGHBRIDGE_LOAD_TIMEOUT)"
            raise ModelRefused(f"{path}: opening took longer than {limit}") from exc
        except asyncio.CancelledError:
            runner.kill()
            raise

    def _lost(self, nursery: Nursery) -> None:
        """Forget a nursery that has ended."""
        if self._nurseries.get(nursery.runtime) is nursery:
            del self._nurseries[nursery.runtime]
        else:
            self._former_nurseries.remove(nursery)

    def _forget(self, hosted: Hosted) -> None:
        self._hosted.pop(hosted.number, None)

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
        for nursery in self._all_nurseries:
            if nursery.idle_seconds > _IDLE_NURSERY_SECONDS:
                nursery.close()
        self._tick_on()

    def families(self) -> Iterator[Metric]:
        """The families of series about runners."""
        serving = [hosted for hosted in self.hosted if not hosted.retired]
        runners = [
            RunnerStatus(*_of(hosted), runner.instance, runner.pid, **runner.counts)
            for hosted in serving
            for runner in hosted.runners.values()
        ]
        versions = [
            HostedStatus(*_of(hosted), *hosted.in_hand, hosted.crashes, is_available=hosted.unavailable is None)
            for hosted in serving
        ]
        return runner_families(runners, versions)


def _check_rights(name: str, manifest: Manifest, asked: Rights, granted: Rights) -> None:
    """Raises ModelRefused for rights that no format of data has, or that the operator does not grant."""
    lacking = asked.beyond(granted if manifest.runtime in CODE else NO_RIGHTS)
    if lacking:
        whose = "WEIGHBRIDGE_GRANTS does not grant" if manifest.runtime in CODE else "a model that is data cannot have"
        raise ModelRefused(f"models/{name}/rollout.toml: rights: {whose} {', '.join(lacking)}")


def _kill(started: "asyncio.Task[RunnerProcess]") -> None:
    """End a runner that nobody wants any more, if it has come."""
    if not started.cancelled() and started.exception() is None:
        started.result().kill()


def _of(hosted: Hosted) -> tuple[str, str]:
    return hosted.name, hosted.version


def connect(models: Models, hosted: Hosted, runner: RunnerProcess) -> None:
    """Have the models of this very process ask a runner of a version."""
    if hosted.board is None:  # it has ended
        return
    end = runner.meet()
    if end is not None:
        models.connect(hosted.number, end, runner.serial, os.dup(hosted.board), 0)


def _no_process(order: Order, exc: OSError) -> ModelRefused:
    reason = exc.strerror or str(exc)
    return ModelRefused(f"models/{order.name}/{order.version}: no process could be started to open it: {reason}")

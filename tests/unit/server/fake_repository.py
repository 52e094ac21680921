"""A directory of models that a test describes, and one who opens what is in it."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

from prometheus_client.metrics_core import Metric
from typing_extensions import override

from weighbridge.adapters.manifest import Options, Rollout
from weighbridge.adapters.repository import FoundModel, FoundVersion
from weighbridge.adapters.runners.terms import Board, Placed, Terms
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.orders import Order, Report
from weighbridge.server.runner.process import RunnerProcess
from weighbridge.server.runner.runners import RunnerReport
from weighbridge.settings import Settings

REPORT = Report(golden=2, call_seconds=0.001, row_seconds=0.0001)


class FakeRepository:
    """Models by name, with versions of which each has a number for its content."""

    def __init__(self) -> None:
        self.found: dict[str, FoundModel] = {}
        self.others: list[str] = []
        self.problem: str | None = None
        self.read_only = False
        self.most_bytes = 0
        self.scanned: list[str | None] = []
        self.scanned_under: int | None = None
        self.before_writing: Callable[[], None] = lambda: None

    def put(self, name: str, *versions: str, **keys: Any) -> None:
        """Have a model with these versions, and a rollout if it has any keys."""
        rollout = Rollout(**keys) if keys else None
        found = {version: FoundVersion(fingerprint=f"{name}-{version}") for version in versions}
        self.found[name] = FoundModel(rollout, None, found)

    def change(self, name: str, version: str, found: FoundVersion) -> None:
        """Have something else in the place of a version."""
        model = self.found[name]
        self.found[name] = replace(model, versions={**model.versions, version: found})

    def scan(self, only: str | None = None) -> dict[str, FoundModel]:
        self.scanned.append(only)
        self.scanned_under = os.sched_getscheduler(0)  # the policy of the calling thread
        if self.problem is not None:
            raise ModelRefused(self.problem)
        return {name: found for name, found in self.found.items() if only in {None, name}}

    def strangers(self) -> list[str]:
        return self.others

    def write_rollout(self, name: str, *, live: str, previous: str | None) -> None:
        self.before_writing()
        if self.read_only:
            raise OSError(errno.EROFS, "Read-only file system")
        found = self.found[name]
        changed = (found.rollout or Rollout()).model_copy(update={"live": live, "previous": previous})
        self.found[name] = replace(found, rollout=changed)


class FakeRunner(RunnerProcess):
    """A runner that has no process: whoever asks it reads its name, and then the end."""

    def __init__(self, name: str, instance: int) -> None:
        self.name = name
        self.instance = self.serial = instance
        self.pid = None
        self.report = asyncio.get_running_loop().create_future()
        self.report.set_result(REPORT)
        self.ended = asyncio.get_running_loop().create_future()

    @override
    def meet(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.send(f"{self.name} {self.instance}".encode())
        return ours


class FakeHosted(Hosted):
    """A version that was opened, whose runners have no processes."""

    def __init__(
        self, openings: "FakeOpenings", order: Order, options: Options, placed: Placed, board: int | None
    ) -> None:
        super().__init__(order, options, placed, REPORT, board, lambda _: asyncio.get_running_loop().create_future())
        self._openings = openings

    @override
    async def revive(self) -> None:
        if self.unavailable is None:
            return
        if self.version in self._openings.refused:
            raise ModelRefused(self._openings.refused[self.version])
        self._openings.replace(self, 0)

    @override
    def retire(self) -> None:
        self._openings.retired.append((self.name, self.version))
        self._openings.hosted.remove(self)
        _release(self)


class FakeOpenings:
    """Opens all but what it is told to refuse, or the models that `hang`: for workers, or with so many `runners`."""

    def __init__(self, runners: int = 0) -> None:
        self.came: Callable[[Hosted, RunnerProcess], None] = lambda *_: None
        self.gone: Callable[[Hosted], None] = lambda _: None
        self.runners = runners
        self.refused: dict[str, str] = {}
        self.opened: list[tuple[str, str]] = []
        self.retired: list[tuple[str, str]] = []
        self.hosted: list[Hosted] = []
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.hang: set[str] = set()
        self.heeded: list[Settings] = []
        self.opens_otherwise = False
        self.blamed: list[tuple[int, int, str]] = []
        self.cleared: list[int] = []
        self._numbers = count(1)

    async def open(self, name: str, version: str, options: Options) -> Hosted:
        self.opened.append((name, version))
        await self.may_open.wait()
        while name in self.hang:
            await asyncio.wait({asyncio.ensure_future(asyncio.sleep(0))})
        if version in self.refused:
            raise ModelRefused(self.refused[version])
        order = Order(name, version, "", 1, 2**30, options.max_batch_rows, options.repeat)
        placed, board, options = Placed(version), None, options.model_copy(update={"instances": self.runners})
        if self.runners:
            placed = Placed(version, 1, Terms(next(self._numbers), self.runners, 256, shares=True, **_PACE))
            board = os.memfd_create("weighbridge-board")
            os.ftruncate(board, Board.size(4))
        hosted = FakeHosted(self, order, options, placed, board)
        hosted.runners = {instance: FakeRunner(f"{name} {version}", instance) for instance in range(self.runners)}
        self.hosted.append(hosted)
        return hosted

    def replace(self, hosted: Hosted, instance: int) -> None:
        """Have another runner in the place of one."""
        runner = hosted.runners[instance] = FakeRunner(f"{hosted.name} {hosted.version} anew", instance)
        hosted.unavailable = None
        self.came(hosted, runner)

    def put_out(self, hosted: Hosted, reason: str) -> None:
        """Have a version out of service."""
        hosted.runners, hosted.unavailable = {}, reason
        self.gone(hosted)

    def heed(self, settings: Settings) -> bool:
        self.heeded.append(settings)
        return self.opens_otherwise

    def broken(self, number: int, instance: int, reason: str) -> None:
        self.blamed.append((number, instance, reason))

    def clear(self, slot: int) -> None:
        self.cleared.append(slot)

    def reports(self) -> list[RunnerReport]:
        return [
            RunnerReport(hosted.name, hosted.version, instance, None, 0.0, 0, 0, 0.0)
            for hosted in self.hosted
            for instance in hosted.runners
        ]

    def families(self) -> list[Metric]:
        return []

    def close(self) -> None:
        """Give back what it holds for the versions that are open."""
        for hosted in self.hosted:
            _release(hosted)


_PACE = {"call_seconds": REPORT.call_seconds, "row_seconds": REPORT.row_seconds}


def _release(hosted: Hosted) -> None:
    if hosted.board is not None:
        os.close(hosted.board)
        hosted.board = None

"""A version and its runners, which are the test's; so is the clock, and delays are a thousand times as short."""

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import pytest
from structlog.typing import FilteringBoundLogger

from tests.unit.log import Log
from tests.unit.server.runner.fakes import FakeRunner
from tests.unit.server.runner.looped import Looped
from tests.waiting import until
from weighbridge.adapters.manifest import Options
from weighbridge.adapters.runners.terms import Board, Placed, Terms
from weighbridge.application.catalogue import Calls
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.runner import hosted
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.orders import Order, Report
from weighbridge.server.runner.process import RunnerProcess

ORDER = Order("churn", "1", "", threads=1, memory=2**30, max_batch_rows=256, repeat=True)
REPORT = Report(2, 0.0012345678, 0.0)
KILLED = "its process was killed by signal 9 (Killed)"


class Stage:
    """A version with as many runners as its options say, and what it has told of."""

    def __init__(self, loop: Looped, logger: FilteringBoundLogger | None, instances: int = 1) -> None:
        self.loop = loop
        self.now = 1000.0
        self.refusal: str | None = None
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.started: list[FakeRunner] = []
        self.told: list[Any] = []
        self.board = os.memfd_create("board")
        os.ftruncate(self.board, Board.size(2))
        terms = Terms(7, instances, 256, shares=True, call_seconds=0.0, row_seconds=0.0)
        self.hosted = Hosted(
            ORDER, Options(instances=instances), Placed("1", 1, terms), REPORT, self.board, self._start
        )
        self.hosted.logger = logger
        self.hosted.came = lambda _, runner: self.told.append(runner.instance)
        self.hosted.gone = lambda gone: self.told.append(gone.unavailable)
        self.hosted.ended = lambda _: self.told.append("ended")
        for instance in range(instances):
            self.join(instance)

    async def _start(self, instance: int) -> RunnerProcess:
        await self.may_start.wait()
        if self.refusal is not None:
            raise ModelRefused(self.refusal)
        self.started.append(FakeRunner(ORDER, instance))
        self.started[-1].report.set_result(REPORT)
        return cast("RunnerProcess", self.started[-1])

    def join(self, instance: int) -> None:
        runner = self.loop.do(lambda: FakeRunner(ORDER, instance))
        self.loop.do(lambda: runner.report.set_result(REPORT))
        self.loop.do(lambda: self.hosted.join(cast("RunnerProcess", runner)))

    def runner(self, instance: int = 0) -> FakeRunner:
        """The runner in this place, once there is one."""
        self.loop.until(lambda: instance in self.hosted.runners)
        return cast("FakeRunner", self.hosted.runners[instance])

    def die(self, times: int = 1, instance: int = 0, *, age: float = 1.0, with_nursery: bool = False) -> None:
        """Have as many runners in this place end, one after the other."""
        for _ in range(times):
            runner = self.runner(instance)
            runner.age = age
            self.loop.do(partial(runner.die, with_nursery=with_nursery))
            self.loop.settle()


@pytest.fixture
def stage(loop: Looped, logger: FilteringBoundLogger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    yield from staged(loop, logger, monkeypatch)


@pytest.fixture
def two(loop: Looped, logger: FilteringBoundLogger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """The same with two runners."""
    yield from staged(loop, logger, monkeypatch, instances=2)


def staged(
    loop: Looped, logger: FilteringBoundLogger, patch: pytest.MonkeyPatch, instances: int = 1
) -> Iterator[Stage]:
    patch.setattr(hosted, "_FIRST_RETRY_SECONDS", 0.001)
    patch.setattr(hosted, "_LONGEST_RETRY_SECONDS", 0.005)
    stage = Stage(loop, logger, instances)
    patch.setattr(hosted, "monotonic", lambda: stage.now)
    yield stage
    loop.do(stage.hosted.close)


def retries(log: Log, count: int) -> list[float]:
    """After how many seconds the version was to be retried, each time it was out of service."""
    until(lambda: len(log.of("model_unavailable")) >= count)
    return [line["retry_in"] for line in log.of("model_unavailable")]


# Deaths


def test_a_runner_that_ends_is_replaced_at_once(stage: Stage, log: Log) -> None:
    stage.die()

    assert stage.runner() is stage.started[0]
    assert stage.told == [0]
    assert (stage.hosted.crashes, stage.hosted.unavailable) == (1, None)
    [line] = log.written("runner_died")
    assert (line["model"], line["version"], line["runner"]) == ("churn", "1", 0)
    assert line["reason"] == "was killed by signal 9 (Killed)"


def test_at_the_fifth_death_in_a_minute_a_version_is_out_of_service_until_a_runner_comes(
    stage: Stage, log: Log
) -> None:
    stage.die(4)
    assert stage.told == [0, 0, 0, 0]
    stage.die()

    stage.runner()
    assert stage.told == [0, 0, 0, 0, KILLED, 0]
    assert stage.hosted.unavailable is None
    [line] = log.written("model_unavailable")
    assert (line["reason"], line["retry_in"]) == (KILLED, 0.001)
    assert log.written("model_available")


def test_deaths_that_are_rarer_do_not_put_a_version_out_of_service(stage: Stage) -> None:
    for _ in range(20):
        stage.now += 15.1
        stage.die()

    assert stage.told == [0] * 20


def test_a_version_is_retried_after_twice_as_long_each_time_and_no_longer_than_the_longest(
    stage: Stage, log: Log
) -> None:
    stage.die(9)
    stage.runner()

    assert retries(log, 5) == [0.001, 0.002, 0.004, 0.005, 0.005]


def test_a_runner_that_has_lived_for_a_minute_lets_its_version_begin_anew(stage: Stage, log: Log) -> None:
    stage.die(6)
    stage.now += 61
    stage.die(age=61)
    assert stage.told[-1] == 0
    stage.die(4)
    stage.runner()

    assert retries(log, 3) == [0.001, 0.002, 0.001]


def test_runners_that_end_with_their_nursery_are_replaced_however_often(stage: Stage) -> None:
    stage.die(7, with_nursery=True)

    assert stage.told == [0] * 7
    assert stage.hosted.crashes == 7


def test_a_runner_that_cannot_be_replaced_puts_its_version_out_of_service(stage: Stage, log: Log) -> None:
    stage.refusal = "models/churn/1: expected a file, got nothing"
    stage.die()
    stage.loop.until(lambda: len(stage.told) > 1)
    assert stage.hosted.unavailable == "its process could not be replaced; the log has the reason"
    stage.refusal = None

    stage.runner()
    assert stage.hosted.unavailable is None
    assert log.written("runner_not_replaced")[0]["reason"] == "models/churn/1: expected a file, got nothing"


def test_a_version_is_in_service_for_as_long_as_it_has_a_runner(two: Stage) -> None:
    two.die(6, instance=1)
    two.runner(1)

    assert two.told == [1] * 6
    assert two.hosted.unavailable is None


def test_each_runner_of_a_version_out_of_service_is_replaced(two: Stage) -> None:
    two.refusal = "no"
    two.die(instance=0)
    two.die(instance=1)
    assert two.hosted.unavailable is not None
    two.refusal = None

    assert {two.runner(0).instance, two.runner(1).instance} == {0, 1}


# What operators ask for


def test_a_version_that_is_in_service_needs_no_revival(stage: Stage) -> None:
    stage.loop.run(stage.hosted.revive())

    assert stage.started == []


def test_a_version_out_of_service_is_revived_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "_FIRST_RETRY_SECONDS", 1000.0)
    stage.hosted._retry_seconds = 1000.0
    stage.die(5)
    assert stage.hosted.unavailable == KILLED

    stage.loop.run(stage.hosted.revive())

    assert stage.hosted.unavailable is None
    stage.die(4)
    assert stage.told[-1] == 0


def test_a_version_that_cannot_be_revived_is_refused_with_the_reason(stage: Stage) -> None:
    stage.refusal = "no"
    stage.die()

    with pytest.raises(ModelRefused, match=r"^models/churn/1: its process could not be replaced; the log has the"):
        stage.loop.run(stage.hosted.revive())


def test_a_runner_too_many_is_ended(stage: Stage) -> None:
    first = stage.runner()

    stage.loop.run(stage.hosted._replace(0))

    assert stage.started[0].killed
    assert stage.runner() is first


def test_a_version_one_of_whose_runners_has_ended_is_not_as_it_was_opened(stage: Stage) -> None:
    stage.hosted.check()
    stage.die()

    with pytest.raises(ModelRefused, match=r"^models/churn/1: the process that opened it has ended$"):
        stage.hosted.check()


# The end


def test_a_version_that_retires_ends_with_its_last_runner(two: Stage) -> None:
    runners = two.runner(0), two.runner(1)
    two.loop.do(two.hosted.retire)
    assert [runner.retired for runner in runners] == [True, True]
    two.die(instance=0)
    assert two.told == []
    two.die(instance=1)

    assert (two.told, two.started, two.hosted.crashes) == (["ended"], [], 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(two.board)


def test_a_version_that_retires_out_of_service_ends_at_once(stage: Stage) -> None:
    stage.refusal = "no"
    stage.die()
    stage.loop.do(stage.hosted.retire)
    stage.refusal = None

    assert stage.told[-1] == "ended"
    stage.loop.settle()
    assert stage.started == []


@pytest.mark.parametrize("refusal", [None, "no"])
def test_a_version_that_retires_while_a_runner_is_replaced_has_none_after(stage: Stage, refusal: str | None) -> None:
    stage.may_start.clear()
    stage.die()
    stage.loop.do(stage.hosted.retire)
    stage.refusal = refusal
    stage.loop.do(stage.may_start.set)
    stage.loop.settle()

    assert stage.hosted.runners == {}
    assert all(started.killed for started in stage.started)
    assert stage.told == ["ended"]


def test_a_version_is_closed_while_its_runners_are_there_and_while_one_is_replaced(two: Stage) -> None:
    two.may_start.clear()
    two.die(instance=1)
    two.loop.do(two.hosted.close)
    two.loop.do(two.may_start.set)
    two.die(instance=0)

    assert (two.hosted.board, two.hosted.runners, two.started) == (None, {}, [])
    assert {*two.told} == {"ended"}


# What it shows


def test_what_waits_for_the_runners_is_what_workers_have_counted(stage: Stage) -> None:
    board = Board(bytearray(Board.size(2)), 1)
    board.add(3, 40)
    os.pwrite(stage.board, bytes(board._counts), 0)

    assert stage.hosted.in_hand == (3, 40)
    stage.loop.do(stage.hosted.close)
    assert stage.hosted.in_hand == (0, 0)


def test_the_catalogue_says_how_a_version_is_called(two: Stage) -> None:
    assert two.hosted.entry() == Calls("runner", 2, True, 0.0012346, 0.0)
    assert (two.hosted.number, len(two.hosted.ready)) == (7, 2)


def test_a_version_that_workers_call_has_no_runners(loop: Looped) -> None:
    inline = Hosted(ORDER, Options(), Placed("1", 40), Report(1, 0.0, 0.0), None, cast("Any", None))

    assert inline.entry() == Calls("inline", 0, False, 0.0, 0.0)
    assert (inline.number, inline.in_hand) == (0, (0, 0))
    loop.do(inline.retire)


def test_what_befalls_a_version_is_logged_only_where_there_is_a_log(loop: Looped) -> None:
    stage = Stage(loop, None)
    stage.die()

    stage.runner()
    loop.do(stage.hosted.close)

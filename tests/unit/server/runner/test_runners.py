"""The runners of a service, which are the test's: where versions are called, and what becomes of them."""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.typing import FilteringBoundLogger

from tests.unit.log import Log
from tests.unit.server.runner.fakes import FakeNursery, FakeRunner
from tests.unit.server.runner.looped import Looped
from weighbridge.adapters.manifest import Options
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runners.terms import Board, Terms
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.edge.opening import Models
from weighbridge.server.runner import runners
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.orders import Order, Report
from weighbridge.server.runner.process import RunnerProcess
from weighbridge.server.runner.runners import RunnerReport, Runners, connect
from weighbridge.settings import Rights, Settings

QUICK = Report(2, 0.0001, 0.00001)
SLOW = Report(2, 0.01, 0.001)


class Stage:
    """Runners of a directory of models, each of which opens as the test says."""

    def __init__(self, loop: Looped, root: Path, logger: FilteringBoundLogger, **settings: Any) -> None:
        self.loop = loop
        self.root = root
        self.nurseries: list[FakeNursery] = []
        self.started: list[FakeRunner] = []
        self.reports: dict[int, Report | Exception | None] = {}
        self.problem: OSError | None = None
        self.told: list[Any] = []
        self.runners = Runners(Settings(models=str(root), **{"workers": 2, **settings}), logger)
        self.runners.came = lambda hosted, runner: self.told.append((hosted.name, runner.instance))
        self.runners.gone = lambda hosted: self.told.append(hosted.unavailable)

    def nursery(self, runtime: str, *_: object) -> FakeNursery:
        self.nurseries.append(FakeNursery(runtime))
        return self.nurseries[-1]

    def runner(self, _: FakeNursery, order: Order, instance: int) -> FakeRunner:
        if self.problem is not None:
            raise self.problem
        runner = FakeRunner(order, instance)
        match self.reports.get(instance, SLOW):
            case Report() as report:
                runner.report.set_result(report)
            case Exception() as refusal:
                runner.report.set_exception(refusal)
            case _:
                pass  # it never comes to an end
        self.started.append(runner)
        return runner

    def place(self, runtime: str, name: str = "m") -> None:
        """Have a version 1 of a model of this runtime."""
        (self.root / name / "1").mkdir(parents=True)
        artefact = 'entry = "shop:Model"' if runtime == "python" else f'artefact = "a"\nsha256 = "{64 * "0"}"'
        (self.root / name / "1" / "model.toml").write_text(
            f'runtime = "{runtime}"\n{artefact}\n'
            'inputs = [{ name = "x", type = "int" }]\noutputs = [{ name = "y", type = "int" }]\n'
        )

    def open(
        self, runtime: str = "python", name: str = "m", report: Report | Exception | None = SLOW, **options: Any
    ) -> Hosted:
        if not (self.root / name).exists():
            self.place(runtime, name)
        self.reports[0] = report
        return self.loop.run(self.runners.open(name, "1", Options(**options)))

    def refusal(self, runtime: str = "python", report: Report | Exception | None = SLOW, **options: Any) -> str:
        """Why a version is refused; nothing is left of it then."""
        with pytest.raises(ModelRefused) as refused:
            self.open(runtime, report=report, **options)
        assert self.runners.hosted == []
        return str(refused.value)


@pytest.fixture
def stage(
    loop: Looped, tmp_path: Path, logger: FilteringBoundLogger, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    yield from staged(loop, tmp_path, logger, monkeypatch)


def staged(
    loop: Looped, root: Path, logger: FilteringBoundLogger, patch: pytest.MonkeyPatch, **settings: Any
) -> Iterator[Stage]:
    stage = Stage(loop, root / "models", logger, **settings)
    patch.setattr(runners, "Nursery", stage.nursery)
    patch.setattr(runners, "RunnerProcess", stage.runner)
    patch.setattr(runners, "usable_cores", lambda: 16)
    patch.setattr(runners, "memory_limit", lambda: 2**40)
    patch.setattr(runners, "_TICK_SECONDS", 0.001)
    yield stage
    loop.do(stage.runners.close)
    assert all(nursery.closed for nursery in stage.nurseries)


# Where a version is called


@pytest.mark.parametrize(
    ("runtime", "report", "options", "placement"),
    [
        ("linear", SLOW, {}, "inline"),
        ("linear", Report(1, 0.0, 0.0), {}, "inline"),
        ("linear", SLOW, {"placement": "runner"}, "runner"),
        ("linear", Report(0, 0.0, 0.0), {}, "runner"),
        ("onnx", QUICK, {}, "inline"),
        ("onnx", SLOW, {}, "runner"),
        ("onnx", SLOW, {"placement": "inline"}, "inline"),
        ("onnx", QUICK, {"placement": "runner"}, "runner"),
        ("onnx", Report(0, 0.0, 0.0), {}, "runner"),
        ("xgboost", QUICK, {}, "inline"),
        ("lightgbm", QUICK, {}, "inline"),
        ("sklearn", QUICK, {}, "runner"),
        ("python", QUICK, {}, "runner"),
    ],
)
def test_a_version_is_called_where_its_runtime_its_cost_and_its_options_say(
    stage: Stage, runtime: str, report: Report, options: dict[str, Any], placement: str
) -> None:
    hosted = stage.open(runtime, report=report, **options)

    assert hosted.entry().placement == placement
    [runner] = stage.started
    assert bool(runner.killed) is (placement == "inline")
    assert len(stage.runners.hosted) == (placement == "runner")


@pytest.mark.parametrize(("runtime", "report"), [("sklearn", QUICK), ("python", QUICK), ("onnx", Report(0, 0.0, 0.0))])
def test_inline_is_refused_for_what_may_not_be(stage: Stage, runtime: str, report: Report) -> None:
    assert stage.refusal(runtime, report, placement="inline") == (
        "models/m/rollout.toml: placement: inline is for models of linear, onnx, xgboost, lightgbm with golden rows; "
        "leave placement out, or say runner"
    )
    assert stage.started[0].killed


@pytest.mark.parametrize(("runtime", "placement"), [("linear", "inline"), ("onnx", "runner"), ("xgboost", "runner")])
def test_where_a_sandbox_is_required_only_linear_models_are_called_inline(
    stage: Stage, runtime: str, placement: str
) -> None:
    stage.runners.heed(Settings(models=str(stage.root), workers=2, sandbox="require"))

    assert stage.open(runtime, report=QUICK).entry().placement == placement


GRANTS = Rights(read=("/data", "/etc/hosts"), write=("/data/out",), connect=(5432,))


def test_a_version_of_code_has_the_rights_that_it_asks_for_and_the_operator_grants(stage: Stage) -> None:
    stage.runners.heed(Settings(models=str(stage.root), workers=2, grants=GRANTS))
    rights = Rights(read=("/data/a", "/etc/hosts"), write=("/data/out",), connect=(5432,))

    stage.open(rights=rights)

    assert stage.started[0].order is not None
    assert stage.started[0].order.rights == rights


@pytest.mark.parametrize(
    ("runtime", "rights", "reason"),
    [
        ("python", {"read": ["/dat"]}, "WEIGHBRIDGE_GRANTS does not grant read /dat"),
        ("python", {"read": ["/data/out"], "write": ["/data"]}, "WEIGHBRIDGE_GRANTS does not grant write /data"),
        ("python", {"connect": [5432, 80, 81]}, "WEIGHBRIDGE_GRANTS does not grant connect 80, connect 81"),
        ("sklearn", {"read": ["/data"]}, "a model that is data cannot have read /data"),
    ],
)
def test_rights_beyond_those_granted_are_refused(
    stage: Stage, runtime: str, rights: dict[str, Any], reason: str
) -> None:
    stage.runners.heed(Settings(models=str(stage.root), workers=2, grants=GRANTS))

    assert stage.refusal(runtime, rights=Rights(**rights)) == f"models/m/rollout.toml: rights: {reason}"
    assert stage.started == []


@pytest.mark.parametrize(
    ("runtime", "report", "rows"),
    [
        ("linear", Report(1, 0.0, 0.001), 5),
        ("onnx", Report(2, 0.0, 0.001), 5),
        ("onnx", Report(1, 0.0, 0.001), sys.maxsize),  # its rows may not be independent
    ],
)
def test_inline_calls_are_cut_only_where_rows_were_shown_to_be_independent(
    stage: Stage, runtime: str, report: Report, rows: int
) -> None:
    hosted = stage.open(runtime, report=report, placement="inline")

    assert (hosted.placed.version, hosted.placed.slice_rows, hosted.placed.terms) == ("1", rows, None)


def test_workers_are_told_how_runners_are_asked_and_what_was_opened(stage: Stage) -> None:
    first = stage.open(report=Report(2, 0.25, 0.125), instances=3, max_batch_rows=64)
    second = stage.open(name="n", report=Report(1, 0.25, 0.125))

    assert first.placed.terms == Terms(1, 3, 64, shares=True, call_seconds=0.25, row_seconds=0.125)
    assert second.placed.terms == Terms(2, 1, 256, shares=False, call_seconds=0.25, row_seconds=0.125)
    assert first.placed.manifest == Repository(stage.root).manifest("m", "1").render().decode()


# What a runner is ordered to do


@pytest.fixture
def order(stage: Stage) -> Any:
    """What the runner of a version with these options is ordered to do."""

    def ordered(**options: Any) -> Order:
        stage.open(**options)
        order = stage.started[-1].order
        assert order is not None
        return order

    return ordered


def test_a_runner_has_a_share_of_the_cores(stage: Stage) -> None:
    for name, instances in (("m", 1), ("n", 2), ("o", 60)):
        stage.open(name=name, instances=instances)
    retired = stage.runners.hosted[-1]
    stage.loop.do(retired.retire)
    stage.open(name="p")

    threads = {runner.order.name: runner.order.threads for runner in stage.started if runner.order is not None}
    # Of 16 cores two workers have theirs; besides there are 1 runner, then 1 + 2, then 1 + 2 + 60, then 1 + 2 + 1.
    assert threads == {"m": 5, "n": 3, "o": 1, "p": 2}


def test_a_runner_has_the_options_of_its_version(order: Any) -> None:
    given = order(threads=7, memory=2**30, max_batch_rows=9, repeat=False)

    assert (given.threads, given.memory, given.max_batch_rows, given.repeat) == (7, 2**30, 9, False)


def test_a_runner_has_no_more_memory_than_settings_and_control_groups_leave(
    order: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert order().memory == stage.runners.settings.load_memory_bytes
    monkeypatch.setattr(runners, "memory_limit", lambda: 2**20)

    assert order(memory=2**30).memory == 2**20


# Versions that do not open


def test_the_reason_of_a_runner_is_told(stage: Stage) -> None:
    assert stage.refusal(report=ModelRefused("models/m/1/a: expected a graph")) == "models/m/1/a: expected a graph"


def test_a_version_that_takes_too_long_is_refused_and_its_runner_ended(
    loop: Looped, tmp_path: Path, logger: FilteringBoundLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in staged(loop, tmp_path, logger, monkeypatch, load_timeout=0.01):
        assert stage.refusal(report=None) == (
            "models/m/1: opening took longer than 0.01 seconds (WEIGHBRIDGE_LOAD_TIMEOUT)"
        )
        assert stage.started[0].killed


def test_whoever_waits_no_longer_ends_the_runner(stage: Stage) -> None:
    stage.place("python")
    stage.reports[0] = None
    opening = stage.loop.begin(stage.runners.open("m", "1", Options()))
    stage.loop.until(lambda: stage.started)
    stage.loop.do(opening.cancel)
    stage.loop.settle()

    assert opening.cancelled()
    assert stage.started[0].killed


def test_a_version_without_a_manifest_needs_no_process(stage: Stage) -> None:
    (stage.root / "m/1").mkdir(parents=True)

    assert stage.refusal() == "models/m/1/model.toml: expected a file, got nothing"
    assert stage.started == []


def test_a_version_is_refused_when_there_is_no_descriptor_to_read_it_with(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Repository, "manifest", no_descriptor)

    assert stage.refusal() == "models/m/1: reading failed: OSError: [Errno 24] Too many open files"


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (OSError("the process that runners come from cannot be reached"), "the process that runners come from cannot"),
    ],
)
def test_a_version_is_refused_when_no_process_is_to_be_had(stage: Stage, problem: OSError, reason: str) -> None:
    stage.problem = problem

    assert stage.refusal().startswith(f"models/m/1: no process could be started to open it: {reason}")


def test_a_version_is_refused_when_its_workers_cannot_count(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", no_descriptor)

    assert stage.refusal().endswith("no process could be started to open it: Too many open files")
    assert stage.started[0].killed


# Several runners of one version


def test_a_version_has_as_many_runners_as_its_options_say(stage: Stage) -> None:
    hosted = stage.open(instances=3)

    assert [runner.instance for runner in hosted.ready] == [0, 1, 2]
    assert [runner.killed for runner in stage.started] == [False] * 3


def test_of_a_version_one_of_whose_runners_does_not_open_none_is_left(stage: Stage) -> None:
    stage.reports |= {1: ModelRefused("no room"), 2: None}

    assert stage.refusal(instances=4) == "no room"
    assert all(runner.killed for runner in stage.started if runner.instance != 1)


def test_of_a_version_that_nobody_waits_for_no_runner_is_left(stage: Stage) -> None:
    stage.place("python")
    stage.reports[2] = None
    opening = stage.loop.begin(stage.runners.open("m", "1", Options(instances=3)))
    stage.loop.until(lambda: len(stage.started) == 3)
    stage.loop.settle()
    stage.loop.do(opening.cancel)
    stage.loop.settle()

    assert [runner.killed for runner in stage.started] == [True] * 3


# What becomes of runners


def test_a_runner_that_ends_is_replaced_and_whoever_asks_is_told(stage: Stage, log: Log) -> None:
    hosted = stage.open()
    stage.loop.do(stage.started[0].die)

    stage.loop.until(lambda: stage.told)
    assert stage.told == [("m", 0)]
    assert cast("FakeRunner", hosted.runners[0]) is stage.started[1]
    assert log.written("runner_died")


def test_a_version_that_is_out_of_service_is_told_of(stage: Stage) -> None:
    stage.open()
    stage.reports[0] = ModelRefused("no")
    stage.loop.do(stage.started[0].die)

    stage.loop.until(lambda: stage.told)
    assert stage.told == ["its process could not be replaced; the log has the reason"]


def test_a_version_that_retires_is_forgotten_with_its_last_runner(stage: Stage) -> None:
    hosted = stage.open()
    stage.loop.do(hosted.retire)
    assert stage.started[0].retired
    stage.loop.do(stage.started[0].die)
    stage.loop.settle()

    assert (stage.runners.hosted, stage.told, len(stage.started)) == ([], [], 1)


def test_a_runner_that_sent_what_it_may_not_is_ended(stage: Stage) -> None:
    hosted = stage.open(instances=2)
    one, other = stage.started

    stage.loop.do(lambda: stage.runners.broken(hosted.number, other.serial, "expected a frame"))
    stage.loop.do(lambda: stage.runners.broken(hosted.number + 1, one.serial, "of a version that is gone"))

    assert (one.killed, other.killed) == (False, "sent what no runner does: expected a frame")


@pytest.mark.parametrize(("options", "limit"), [({}, 30), ({"call_timeout": 0.5}, 0.5)])
def test_a_runner_whose_call_takes_too_long_is_ended(stage: Stage, options: dict[str, Any], limit: float) -> None:
    stage.open(instances=2, **options)
    in_time, too_long = stage.started
    in_time.busy_seconds, too_long.busy_seconds = limit - 0.1, limit + 0.1

    stage.loop.until(lambda: too_long.killed)
    assert too_long.killed == f"was in one call for more than {limit:g} s, the call_timeout"
    assert not in_time.killed


def test_calls_are_watched_after_the_only_nursery_was_lost(stage: Stage) -> None:
    stage.open()
    stage.loop.do(stage.nurseries[0].close)
    stage.loop.until(lambda: stage.runners._ticking is None)
    stage.loop.do(stage.started[0].die)
    stage.loop.until(lambda: len(stage.started) == 2)
    stage.started[1].busy_seconds = 31.0

    stage.loop.until(lambda: stage.started[1].killed)


def test_what_a_worker_that_is_gone_had_in_hand_is_forgotten(stage: Stage) -> None:
    hosted = stage.open()
    closed = stage.open(name="n")
    stage.loop.do(closed.retire)
    assert hosted.board is not None
    for slot in (0, 1):
        counts = Board(bytearray(Board.size(2)), slot)
        counts.add(3 + slot, 5 + slot)
        os.pwrite(hosted.board, bytes(counts._counts)[slot * 16 : slot * 16 + 16], slot * 16)

    for slot in (1, 1000):
        stage.runners.clear(slot)

    assert hosted.in_hand == (3, 5)


# Nurseries


def test_runners_of_one_runtime_come_from_one_nursery_until_it_is_lost(stage: Stage) -> None:
    for name, runtime in (("m", "python"), ("n", "python"), ("o", "sklearn")):
        stage.open(runtime, name)
    assert [nursery.runtime for nursery in stage.nurseries] == ["python", "sklearn"]
    stage.loop.do(stage.nurseries[0].close)
    stage.open("python", "p")

    assert [nursery.runtime for nursery in stage.nurseries] == ["python", "sklearn", "python"]


def test_nurseries_are_its_children_until_they_are_lost(stage: Stage) -> None:
    stage.open("python")
    stage.runners.heed(stage.runners.settings.model_copy(update={"load_timeout": 5.0}))
    stage.open("python", "n")

    assert stage.runners.children == {nursery.pid for nursery in stage.nurseries}
    stage.loop.do(stage.nurseries[0].close)
    assert stage.runners.children == {stage.nurseries[1].pid}


def test_a_nursery_that_nobody_needs_is_ended_after_a_minute(stage: Stage) -> None:
    stage.open("python")
    stage.open("sklearn", "n")
    stage.nurseries[0].idle_seconds = 61.0
    stage.nurseries[1].idle_seconds = 59.0

    stage.loop.until(lambda: stage.nurseries[0].closed)
    assert not stage.nurseries[1].closed


@pytest.mark.parametrize(
    ("changed", "is_heeded"),
    [({"load_timeout": 5.0}, True), ({"python_models": True}, True), ({"deadline_ms": 5}, False)],
)
def test_settings_that_matter_to_runners_are_those_of_nurseries_from_then_on(
    stage: Stage, changed: dict[str, Any], *, is_heeded: bool
) -> None:
    stage.open()
    settings = stage.runners.settings.model_copy(update=changed)

    assert stage.runners.heed(settings) is is_heeded
    stage.open(name="n")

    assert stage.runners.settings is settings
    assert len(stage.nurseries) == 1 + is_heeded
    assert not stage.nurseries[0].closed
    stage.loop.do(stage.nurseries[0].close)
    assert len(stage.runners._former_nurseries) == 0


# What operators see


def test_a_report_tells_of_each_runner(stage: Stage) -> None:
    stage.open(instances=2)

    assert stage.runners.reports() == [
        RunnerReport("m", "1", place, 4711, age_seconds=1.0, calls=2, rows=3, busy_seconds=0.5) for place in (0, 1)
    ]


def test_metrics_tell_of_versions_that_are_live_and_of_their_runners(stage: Stage) -> None:
    stage.open()
    retired = stage.open(name="n")
    stage.loop.do(retired.retire)

    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in stage.runners.families()
        for sample in family.samples
    }
    assert samples["weighbridge_runner_calls_total", "m", "1", "0"] == 2
    assert samples["weighbridge_model_available", "m", "1"] == 1
    assert not any("n" in sample for sample in samples)


# The models of this very process


def test_the_models_of_this_process_ask_a_runner_at_an_end_of_their_own(stage: Stage) -> None:
    hosted, end, told = stage.open(), object(), list[Any]()
    runner = SimpleNamespace(serial=9, meet=lambda: end)
    models = SimpleNamespace(connect=lambda *given: told.append(given))

    connect(cast("Models", models), hosted, cast("RunnerProcess", runner))

    [(number, given, serial, board, slot)] = told
    assert (number, given, serial, slot) == (hosted.number, end, 9, 0)
    assert board != hosted.board
    os.close(board)
    stage.loop.do(hosted.close)
    connect(cast("Models", models), hosted, cast("RunnerProcess", runner))
    assert len(told) == 1


def test_a_runner_that_is_gone_is_not_asked(stage: Stage) -> None:
    hosted = stage.open()

    connect(cast("Models", None), hosted, cast("RunnerProcess", SimpleNamespace(meet=lambda: None)))

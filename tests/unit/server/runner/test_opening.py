"""What a runner does first, in this process; the clock is the test's."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import weighbridge
from tests.unit.models import FakeModel, outputs
from weighbridge.adapters.manifest import Manifest
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.system import priority
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature
from weighbridge.server.runner import opening
from weighbridge.server.runner.opening import open_version
from weighbridge.server.runner.orders import Order, Report
from weighbridge.settings import Settings

SIGNATURE = Signature((Column(name="x", kind=Kind.INT),), (Column(name="y", kind=Kind.FLOAT),))


def manifest(golden: int) -> Manifest:
    return Manifest.model_validate(
        {
            "runtime": "python",
            "entry": "shop:Model",
            "inputs": [{"name": "x", "type": "int"}],
            "outputs": [{"name": "y", "type": "float"}],
            "golden": [{"input": {"x": x}, "output": {"y": float(x)}} for x in range(golden)],
        }
    )


class Timed:
    """A clock, and a model whose calls take time by it."""

    def __init__(self, call_seconds: float, row_seconds: float) -> None:
        self.now = 100.0
        self.model = FakeModel(SIGNATURE, self._predict)
        self._call_seconds = call_seconds
        self._row_seconds = row_seconds

    def _predict(self, batch: Batch) -> Outputs:
        self.now += self._call_seconds + len(batch) * self._row_seconds
        return outputs(SIGNATURE, [0.0] * len(batch))

    @property
    def calls(self) -> list[int]:
        """How many rows each call had."""
        return [len(batch) for batch in self.model.seen]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Timed, int], Report]:
    """The report on a model that has so many golden rows."""

    def measure(timed: Timed, golden: int) -> Report:
        monkeypatch.setattr(opening, "monotonic", lambda: timed.now)
        return opening._measured(timed.model, manifest(golden))

    return measure


def test_what_a_call_takes_is_told_from_calls_of_one_row_and_of_many(
    measured: Callable[[Timed, int], Report],
) -> None:
    timed = Timed(0.01, 0.0001)
    report = measured(timed, 3)

    assert report.golden == 3
    assert report.call_seconds == pytest.approx(0.01)
    assert report.row_seconds == pytest.approx(0.0001)
    assert timed.calls == [1] * 5 + [64] * 5


def test_a_slow_model_is_called_no_more_than_it_must_be(measured: Callable[[Timed, int], Report]) -> None:
    timed = Timed(10.0, 1.0)
    report = measured(timed, 3)

    assert report.call_seconds == pytest.approx(10.0)
    assert report.row_seconds == pytest.approx(1.0)
    assert timed.calls == [1, 3]


def test_one_golden_row_of_a_slow_model_tells_of_single_calls(measured: Callable[[Timed, int], Report]) -> None:
    report = measured(Timed(10.0, 1.0), 1)

    assert report.golden == 1
    assert report.one_row_seconds == pytest.approx(11.0)


def test_a_model_whose_rows_get_cheaper_together_has_no_negative_times(
    measured: Callable[[Timed, int], Report],
) -> None:
    report = measured(Timed(0.1, -0.001), 2)

    assert report.row_seconds == 0
    assert report.call_seconds > 0


def test_nothing_is_measured_without_golden_rows(measured: Callable[[Timed, int], Report]) -> None:
    timed = Timed(0.1, 0.1)

    assert measured(timed, 0) == Report(0, 0.0, 0.0)
    assert timed.calls == []


# A version of a directory


@pytest.mark.parametrize("has_pools", [True, False])
def test_libraries_compute_with_as_many_threads_as_the_order_says(
    monkeypatch: pytest.MonkeyPatch, *, has_pools: bool
) -> None:
    limits: list[int] = []

    class Pools:
        threadpool_limits = limits.append

    def imported(name: str) -> object:
        assert name == "threadpoolctl"
        if not has_pools:
            raise ImportError
        return Pools

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(opening, "import_module", imported)

    opening.compute_with(5)

    assert {os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")} == {"5"}
    assert limits == [5] * has_pools


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Order:
    monkeypatch.setattr(opening, "compute_with", lambda _: None)
    weighbridge.package([2.0, 0.0], tmp_path / "churn/1", example=[[1.0, 1.0], [2.0, 1.0]])
    text = Repository(tmp_path).manifest("churn", "1").render().decode()
    return Order("churn", "1", text, threads=1, memory=2**30, max_batch_rows=256, repeat=True)


def test_a_version_is_opened_and_measured(order: Order, tmp_path: Path) -> None:
    model, report = open_version(order, Settings(models=str(tmp_path)))

    assert [values.tolist() for values in model.predict(Batch(model.signature, [[3.0, 0.0]]))] == [[6.0]]
    assert report.golden == 2
    assert 0 < report.one_row_seconds < 1


def test_a_version_is_opened_by_the_manifest_that_was_read_whatever_became_of_the_file(
    order: Order, tmp_path: Path
) -> None:
    (tmp_path / "churn/1/model.toml").write_text("gone")

    _, report = open_version(order, Settings(models=str(tmp_path)))

    assert report.golden == 2


def test_the_reason_of_the_loader_is_told(order: Order, tmp_path: Path) -> None:
    (tmp_path / "churn/1/weights.json").write_bytes(b"{}")

    with pytest.raises(ModelRefused, match=r"^models/churn/1/weights\.json: expected the sha256 "):
        open_version(order, Settings(models=str(tmp_path)))


USUAL = os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.parametrize(
    ("is_idle", "threads", "expected"),
    [
        (True, 1, (19, os.SCHED_BATCH)),
        (False, 1, (USUAL, os.SCHED_BATCH)),
        (True, 2, (USUAL, os.sched_getscheduler(0))),  # what they start would give way for ever
    ],
)
def test_opening_gives_way_where_the_machine_has_anything_left_and_calls_do_not(
    order: Order,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_idle: bool,
    threads: int,
    expected: tuple[int, int],
) -> None:
    seen = []
    monkeypatch.setattr(priority, "_is_idle", lambda: is_idle)
    monkeypatch.setattr(opening, "_measured", lambda *_: seen.append(_priority()))

    open_version(replace(order, threads=threads), Settings(models=str(tmp_path)))

    assert seen == [expected]
    assert _priority() == (USUAL, os.sched_getscheduler(0))


def _priority() -> tuple[int, int]:
    """Of the calling thread."""
    return os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)

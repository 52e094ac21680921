import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from weighbridge import __version__
from weighbridge.adapters.exposition import Totals
from weighbridge.adapters.process_metrics import (
    HostedStatus,
    RunnerStatus,
    WorkerState,
    WorkerStatus,
    process_families,
    runner_families,
)
from weighbridge.settings import Settings

IDLE = "import sys; x = b'x' * 30_000_000; print('up', flush=True); sys.stdin.read()"
HIDDEN = "a-token-that-is-long-enough"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs, and has some memory."""
    with subprocess.Popen([sys.executable, "-c", IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started


def samples(*workers: WorkerStatus, restarts: dict[str, int] | None = None, **settings: Any) -> dict[str, float]:
    """What a scrape gives of the processes, by name and labels as Prometheus writes them."""
    families = process_families(workers, restarts or {}, Settings(**settings))
    lines = Totals().exposition([], families).decode().splitlines()
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def runner_samples(runners: Sequence[RunnerStatus], versions: Sequence[HostedStatus] = ()) -> dict[str, float]:
    """What a scrape gives of these runners and versions, by name and labels."""
    families = runner_families(runners, versions)
    lines = Totals().exposition([], families).decode().splitlines()
    ours = (line.rpartition(" ") for line in lines if line.startswith(("weighbridge_runner", "weighbridge_model")))
    return {series: float(value) for series, _, value in ours}


def of(name: str, counts: dict[str, float]) -> dict[str, float]:
    """The samples of one family, by what its one label says."""
    return {
        series.partition('"')[2].partition('"')[0]: value
        for series, value in counts.items()
        if series.startswith(f"weighbridge_{name}{{")
    }


def test_workers_are_counted_by_what_they_are_about() -> None:
    counts = samples(
        WorkerStatus(0, None, WorkerState.READY),
        WorkerStatus(1, None, WorkerState.READY),
        WorkerStatus(2, None, WorkerState.WAITING),
    )

    assert of("workers", counts) == {"starting": 0, "ready": 2, "retiring": 0, "waiting": 1}


def test_restarts_are_counted_by_reason_from_zero_on() -> None:
    counts = samples(restarts={"died": 3, "hung": 0})

    assert of("worker_restarts_total", counts) == {"died": 3, "hung": 0}


def test_each_slot_has_its_connections_requests_and_buffers_and_two_workers_of_one_are_added_up() -> None:
    counts = samples(
        WorkerStatus(0, None, WorkerState.READY, connections=5, in_flight=2, buffered_bytes=1000),
        WorkerStatus(1, None, WorkerState.RETIRING, connections=1, in_flight=1, buffered_bytes=10),
        WorkerStatus(1, None, WorkerState.STARTING, connections=2, in_flight=0, buffered_bytes=5),
    )

    assert of("connections", counts) == {"0": 5, "1": 3}
    assert of("requests_in_flight", counts) == {"0": 2, "1": 1}
    assert of("buffered_bytes", counts) == {"0": 1000, "1": 15}


def test_memory_of_each_process_is_in_bytes(process: subprocess.Popen[bytes]) -> None:
    resident = of("process_resident_memory_bytes", samples(WorkerStatus(7, process.pid, WorkerState.READY)))

    assert set(resident) == {"supervisor", "7"}
    assert 30 * MIB < resident["7"] < 100 * MIB


def test_cpu_time_of_each_process_is_in_seconds() -> None:
    before = sum(os.times()[:2])
    cpu = of("process_cpu_seconds_total", samples())
    after = sum(os.times()[:2])

    assert before - 0.02 <= cpu["supervisor"] <= after + 0.02  # the kernel counts in ticks


def test_open_descriptors_of_each_process_are_counted(process: subprocess.Popen[bytes]) -> None:
    worker = WorkerStatus(7, process.pid, WorkerState.READY)
    before = of("process_open_fds", samples(worker))
    ends = os.pipe()
    during = of("process_open_fds", samples(worker))
    for end in ends:
        os.close(end)

    assert during == {"supervisor": before["supervisor"] + 2, "7": 3}


def test_two_processes_of_a_slot_are_added_up(process: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen([sys.executable, "-c", IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        counts = samples(
            WorkerStatus(7, process.pid, WorkerState.RETIRING), WorkerStatus(7, other.pid, WorkerState.READY)
        )

    assert of("process_open_fds", counts)["7"] == 6
    assert of("process_resident_memory_bytes", counts)["7"] > 60 * MIB


def test_a_process_that_has_gone_is_left_out(process: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    counts = samples(WorkerStatus(0, gone.pid, WorkerState.READY), WorkerStatus(1, process.pid, WorkerState.READY))

    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        assert set(of(name, counts)) == {"supervisor", "1"}


def test_one_process_that_does_everything_is_named_once() -> None:
    counts = samples(WorkerStatus(0, os.getpid(), WorkerState.READY, connections=3))

    assert set(of("process_open_fds", counts)) == {"supervisor"}
    assert of("connections", counts) == {"0": 3}


def test_the_build_is_named() -> None:
    build = f'weighbridge_build_info{{python="{platform.python_version()}",version="{__version__}"}}'

    assert samples()[build] == 1


def test_the_settings_are_shown_but_no_secret() -> None:
    counts = samples(workers=3, deadline_ms=123, admin_token=HIDDEN, fast_lane=False)

    [shown] = [series for series in counts if series.startswith("weighbridge_settings_info")]
    assert counts[shown] == 1
    for label in ('workers="3"', 'deadline_ms="123"', 'fast_lane="false"', 'max_wait_ms="1000"'):
        assert label in shown
    assert HIDDEN not in shown


# Runners

ONE, OTHER = (f'{{model="m",runner="{number}",version="2"}}' for number in (0, 1))


def test_each_runner_has_its_calls_rows_and_the_time_that_they_took() -> None:
    counts = runner_samples(
        [
            RunnerStatus("m", "2", 0, None, calls=3, rows=40, busy_seconds=0.25),
            RunnerStatus("m", "2", 1, None, calls=1, rows=2, busy_seconds=0.5),
        ]
    )

    assert counts == {
        f"weighbridge_runner_calls_total{ONE}": 3,
        f"weighbridge_runner_calls_total{OTHER}": 1,
        f"weighbridge_runner_rows_total{ONE}": 40,
        f"weighbridge_runner_rows_total{OTHER}": 2,
        f"weighbridge_runner_busy_seconds_total{ONE}": 0.25,
        f"weighbridge_runner_busy_seconds_total{OTHER}": 0.5,
    }


def test_each_runner_that_has_a_process_has_its_memory_and_cpu_time(process: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    runners = [RunnerStatus("m", "2", number, pid, 0, 0, 0.0) for number, pid in enumerate((process.pid, gone.pid))]
    counts = runner_samples(runners)

    assert 30 * MIB < counts[f"weighbridge_runner_resident_memory_bytes{ONE}"] < 100 * MIB
    assert 0 < counts[f"weighbridge_runner_cpu_seconds_total{ONE}"] < 60
    assert f"weighbridge_runner_resident_memory_bytes{OTHER}" not in counts
    assert f"weighbridge_runner_cpu_seconds_total{OTHER}" not in counts


def test_each_version_has_what_waits_for_its_runners_their_crashes_and_whether_it_is_in_service() -> None:
    counts = runner_samples(
        [],
        [
            HostedStatus("m", "2", requests=3, rows=40, crashes=4, is_available=False),
            HostedStatus("n", "1", requests=0, rows=0, crashes=0, is_available=True),
        ],
    )

    m, n = '{model="m",version="2"}', '{model="n",version="1"}'
    assert counts == {
        f"weighbridge_runner_requests{m}": 3,
        f"weighbridge_runner_requests{n}": 0,
        f"weighbridge_runner_queue_rows{m}": 40,
        f"weighbridge_runner_queue_rows{n}": 0,
        f"weighbridge_runner_crashes_total{m}": 4,
        f"weighbridge_runner_crashes_total{n}": 0,
        f"weighbridge_model_available{m}": 0,
        f"weighbridge_model_available{n}": 1,
    }

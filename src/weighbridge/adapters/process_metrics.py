"""What Prometheus reads about the processes: what workers do and need, and what runs here."""

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from weighbridge import __version__
from weighbridge.adapters.system.sandbox import Sandbox
from weighbridge.adapters.system.usage import Usage
from weighbridge.settings import Settings

SUPERVISOR = "supervisor"
SHOWN_SETTINGS = (
    "workers",
    "max_body_bytes",
    "max_buffered_bytes",
    "max_in_flight",
    "max_connections",
    "deadline_ms",
    "max_wait_ms",
    "fast_lane",
    "log_requests",
)
"""The settings that are shown: none that is secret, or as long as the weights."""


class WorkerState(StrEnum):
    """What a worker is about."""

    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"  # it finishes what it has, and ends
    WAITING = "waiting"  # it has ended, and its successor is yet to be started


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as its supervisor sees it; `state` is a `WorkerState`. A slot may have two, which are added up."""

    slot: int
    pid: int | None
    state: str
    connections: int = 0
    in_flight: int = 0
    buffered_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """A runner as the process that started it sees it: what it has called, and for how many seconds."""

    model: str
    version: str
    runner: int
    pid: int | None
    calls: int
    rows: int
    busy_seconds: float


@dataclass(frozen=True, slots=True)
class HostedStatus:
    """A version that runners answer for: what is in hand for them, and how often one has ended."""

    model: str
    version: str
    requests: int
    rows: int
    crashes: int
    is_available: bool


def process_families(
    workers: Sequence[WorkerStatus], restarts: Mapping[str, int], settings: Settings
) -> Iterator[Metric]:
    """The families of series about the supervisor, which is this process, and its workers.

    `restarts` are those since the supervisor started, by reason. One that is yet to happen stands there with 0:
    Prometheus sees no increase in a series that begins with 1. CPU seconds are those of processes that run: with each
    new worker those of its slot begin anew.
    """
    states = {state.value: sum(worker.state == state for worker in workers) for state in WorkerState}
    yield _gauge("workers", "Workers, by what they are about.", "state", states)
    yield _counter("worker_restarts", "Workers that were replaced, by why.", "reason", restarts)
    yield _of_workers("connections", "Open connections.", workers, attrgetter("connections"))
    yield _of_workers("requests_in_flight", "Requests in hand.", workers, attrgetter("in_flight"))
    yield _of_workers("buffered_bytes", "Bytes that connections buffer.", workers, attrgetter("buffered_bytes"))
    usages = _usages(workers)
    resident = {process: sum(usage.resident_bytes for usage in of) for process, of in usages.items()}
    seconds = {process: sum(usage.cpu_seconds for usage in of) for process, of in usages.items()}
    descriptors = {process: sum(usage.descriptors for usage in of) for process, of in usages.items()}
    yield _gauge("process_resident_memory_bytes", "Memory, pages shared with others included.", "process", resident)
    yield _counter("process_cpu_seconds", "CPU time.", "process", seconds)
    yield _gauge("process_open_fds", "Open file descriptors.", "process", descriptors)
    build = {"version": __version__, "python": platform.python_version()}
    yield InfoMetricFamily("weighbridge_build", "What runs here.", value=build)
    yield InfoMetricFamily("weighbridge_sandbox", "The rights that models give up.", value=_sandbox(settings))
    shown = {name: str(getattr(settings, name)).lower() for name in SHOWN_SETTINGS}
    yield InfoMetricFamily("weighbridge_settings", "Settings that say how much is let in.", value=shown)


def _sandbox(settings: Settings) -> dict[str, str]:
    offered = Sandbox.offered()
    seccomp = "true" if offered.filters else "false"
    return {"mode": settings.sandbox, "landlock": str(offered.landlock), "seccomp": seccomp}


def runner_families(runners: Sequence[RunnerStatus], versions: Sequence[HostedStatus]) -> Iterator[Metric]:
    """The families of series about runners, and about the versions that they answer for.

    Counts are those of processes that run: with each new runner those of its place begin anew.
    """
    of_each = ("model", "version", "runner")
    calls = CounterMetricFamily("weighbridge_runner_calls", "Calls of models.", labels=of_each)
    rows = CounterMetricFamily("weighbridge_runner_rows", "Rows in these calls.", labels=of_each)
    busy = CounterMetricFamily("weighbridge_runner_busy_seconds", "Time in these calls.", labels=of_each)
    resident = GaugeMetricFamily(
        "weighbridge_runner_resident_memory_bytes", "Memory, pages shared with others included.", labels=of_each
    )
    seconds = CounterMetricFamily("weighbridge_runner_cpu_seconds", "CPU time.", labels=of_each)
    for one in runners:
        of = (one.model, one.version, str(one.runner))
        calls.add_metric(of, one.calls)
        rows.add_metric(of, one.rows)
        busy.add_metric(of, one.busy_seconds)
        with suppress(OSError):  # it has just gone
            usage = Usage.of(one.pid or 0)
            resident.add_metric(of, usage.resident_bytes)
            seconds.add_metric(of, usage.cpu_seconds)
    of_version = of_each[:2]
    requests = GaugeMetricFamily(
        "weighbridge_runner_requests", "Requests that wait for runners, or are with them.", labels=of_version
    )
    waiting = GaugeMetricFamily("weighbridge_runner_queue_rows", "Rows of these requests.", labels=of_version)
    crashes = CounterMetricFamily(
        "weighbridge_runner_crashes", "Runners that ended and were to be replaced.", labels=of_version
    )
    available = GaugeMetricFamily(
        "weighbridge_model_available", "1 while runners answer for a version, 0 out of service.", labels=of_version
    )
    for version in versions:
        names = (version.model, version.version)
        requests.add_metric(names, version.requests)
        waiting.add_metric(names, version.rows)
        crashes.add_metric(names, version.crashes)
        available.add_metric(names, version.is_available)
    yield from (calls, rows, busy, resident, seconds, requests, waiting, crashes, available)


def _usages(workers: Iterable[WorkerStatus]) -> dict[str, list[Usage]]:
    """What the processes take, by what they are; one that has just gone is left out."""
    processes = {os.getpid(): SUPERVISOR}
    for worker in workers:
        if worker.pid is not None:
            processes.setdefault(worker.pid, str(worker.slot))  # with no worker processes, the supervisor does it all
    usages: dict[str, list[Usage]] = {}
    for pid, process in processes.items():
        with suppress(OSError):
            usage = Usage.of(pid)
            usages.setdefault(process, []).append(usage)
    return usages


def _of_workers(
    name: str, meaning: str, workers: Iterable[WorkerStatus], figure: Callable[[WorkerStatus], int]
) -> Metric:
    by_slot = Counter[str]()
    for worker in workers:
        by_slot[str(worker.slot)] += figure(worker)
    return _gauge(name, meaning, "worker", by_slot)


def _gauge(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"weighbridge_{name}", meaning, labels=(label,))
    for of, value in values.items():
        family.add_metric((of,), value)
    return family


def _counter(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"weighbridge_{name}", meaning, labels=(label,))
    for of, value in values.items():
        family.add_metric((of,), value)
    return family

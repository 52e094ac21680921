"""More than can be done: an open loop beyond capacity, on one worker with a core of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from statistics import mean, median
from time import monotonic, sleep

import numpy as np

from benchmarks.processes import busy_seconds
from benchmarks.results import WORK
from benchmarks.torture.clients import Crowd, Load
from benchmarks.torture.exchanges import HOST, LOST, Ask, Journal
from benchmarks.torture.openloop import OpenLoop
from benchmarks.torture.probes import Probes
from benchmarks.torture.report import Row
from benchmarks.torture.service import SERVE, SLOW, Service, cpu_seconds, running
from benchmarks.torture.slow_model import CPU_MS
from benchmarks.wrk import Wrk

_SERVER_CORE, _LOAD_CORE = 0, 1
_CPU_MS = 5
_DEADLINE = 0.1
_ASK = Ask(deadline_ms=int(_DEADLINE * 1000))
_CONNECTIONS = 600
_CLOSED_CLIENTS = 8
_PEAK_SECONDS = 3.0
_EASY = 0.8
_GOALS = {2: 0.98, 10: 0.95}
_ROUNDS = 5
_EASY_SECONDS, _OVER_SECONDS, _AFTER_SECONDS = 8.0, 6.0, 4.0
_WINDOW_SECONDS = 1.0
_STEP_SECONDS = 0.1
_PROBE_SECONDS = 0.05
_RECOVERED_SECONDS = 2.0
_SHED = 503


@dataclass(frozen=True, slots=True)
class Trial:
    """What one open loop at k times capacity came to."""

    goodput: float
    """Good answers a second within the deadline, during the overload."""
    peak: float
    """The same with as many clients as keep the worker busy, measured just before and just after."""
    easy: Journal
    """The requests at 0.8 times capacity, before the overload."""
    p99: float
    """Of the requests that were admitted during the overload, in seconds from when they were due."""
    shed: float
    """The share that was refused during the overload."""
    unsent: int
    """How many found no connection free, or were cut: the load was not as open as it should be."""
    lost: int
    disturbed: float
    """The share of the worker's core that other processes, and the machine's other guests, used."""
    recovered: float
    """Seconds from the end of the overload until all is as it was before it."""


def slow_model() -> Iterator[Row]:
    """2 and 10 times the capacity of a model that takes 5 ms of processor time."""
    with _pinned(SLOW, {CPU_MS: str(_CPU_MS)}) as service:
        _peak(service)  # so that the service has measured its model
        with (
            Probes(service.admin_port, "/readyz") as ready,
            Probes(service.port, "/livez") as alive,
        ):
            rounds = [[_trial(service, times) for times in _GOALS] for _ in range(_ROUNDS)]
    easy_p99 = _p99_of_admitted(Journal(np.concatenate([trial.easy.table for trial in chain(*rounds)])))
    for (times, goal), trials in zip(_GOALS.items(), zip(*rounds, strict=True), strict=True):
        shares = [trial.goodput / trial.peak for trial in trials]
        unsent, lost = sum(trial.unsent for trial in trials), sum(trial.lost for trial in trials)
        p99 = median(trial.p99 for trial in trials)
        recovered = max(trial.recovered for trial in trials)
        yield Row(
            f"{times} times capacity, {_CPU_MS} ms model",
            f"goodput at least {goal:.0%} of peak",
            f"{median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%}): "
            f"{median(trial.goodput for trial in trials):.0f} of "
            f"{median(trial.peak for trial in trials):.0f} a second; "
            f"{median(trial.shed for trial in trials):.0%} refused, {lost} lost; "
            f"others used {median(trial.disturbed for trial in trials):.0%} of the core"
            + (f"; {unsent} not sent for want of a connection" if unsent else ""),
            ok=median(shares) >= goal and not unsent and not lost,
        )
        yield Row(
            f"{times} times: latency of the admitted",
            f"p99 within twice its value at {_EASY} times",
            f"{p99 * 1000:.0f} ms, at {_EASY} times {easy_p99 * 1000:.0f} ms",
            ok=p99 <= 2 * easy_p99,
        )
        yield Row(
            f"{times} times: afterwards",
            f"recovered within {_RECOVERED_SECONDS:g} s",
            f"{recovered:.1f} s, the longest of {_ROUNDS}",
            ok=recovered <= _RECOVERED_SECONDS,
        )
    for where, probes in (("the admin listener's /readyz", ready), ("/livez on the data port", alive)):
        within = probes.share_within(_PROBE_SECONDS)
        yield Row(
            f"overload: {where}",
            f"100% under {_PROBE_SECONDS * 1000:.0f} ms",
            f"{within:.1%} of {len(probes.seconds)}, slowest {probes.slowest * 1000:.0f} ms",
            ok=within == 1.0,
        )


@contextmanager
def _pinned(command: tuple[str, ...], variables: dict[str, str]) -> Iterator[Service]:
    """A service whose one worker has a core of its own; all else is on the other."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_LOAD_CORE})
    try:
        with running(Service(command, name="overload", workers=1, variables=variables)) as service:
            for pid in service.worker_pids():
                os.sched_setaffinity(pid, {_SERVER_CORE})
            yield service
    finally:
        os.sched_setaffinity(0, before)


def _peak(service: Service) -> float:
    """Good answers a second of a closed loop that keeps the worker busy."""
    crowd = Crowd(service.port, kept=_CLOSED_CLIENTS, fresh=0, asks=(_ASK,), core=_LOAD_CORE)
    with Load(crowd) as load:
        sleep(_PEAK_SECONDS + 0.5)
        journal = load.stop()
    start = float(journal.ended.min()) + 0.25
    return _goodput(journal.where(journal.ended >= start), start, start + _PEAK_SECONDS)


def _goodput(journal: Journal, start: float, end: float) -> float:
    in_time = journal.good & (journal.ended - journal.began <= _DEADLINE)
    return int((in_time & (journal.ended >= start) & (journal.ended < end)).sum()) / (end - start)


def _trial(service: Service, times: int) -> Trial:
    before = _peak(service)
    phases = ((_EASY * before, _EASY_SECONDS), (times * before, _OVER_SECONDS), (_EASY * before, _AFTER_SECONDS))
    [worker] = service.worker_pids()
    since, busy, used = monotonic(), busy_seconds(_SERVER_CORE), cpu_seconds(worker)
    start, journal = OpenLoop(service.port, _ASK, phases, _CONNECTIONS, _LOAD_CORE).run()
    others = busy_seconds(_SERVER_CORE) - busy - (cpu_seconds(worker) - used)
    disturbed = max(0.0, others) / (monotonic() - since)
    after = _peak(service)
    over = start + _EASY_SECONDS
    calm = over + _OVER_SECONDS
    easy, overload = journal.begun(start + 1, over), journal.begun(over, calm)
    return Trial(
        goodput=_goodput(journal, over, calm),
        peak=mean((before, after)),
        easy=easy,
        p99=_p99_of_admitted(overload),
        shed=float((overload.outcome == _SHED).mean()),
        unsent=journal.unsent,
        lost=len(journal.lost),
        disturbed=disturbed,
        recovered=_recovered(journal, easy, calm),
    )


def _p99_of_admitted(journal: Journal) -> float:
    admitted = (journal.outcome > LOST) & (journal.outcome != _SHED)
    return float(np.percentile((journal.ended - journal.began)[admitted], 99))


def _recovered(journal: Journal, easy: Journal, calm: float) -> float:
    """From `calm` to the first second in which goodput and p99 are what they were before the overload, or infinite."""
    share = _share_in_time(easy)
    limit = 2 * _p99_of_admitted(easy)
    for step in np.arange(0.0, _AFTER_SECONDS - _WINDOW_SECONDS, _STEP_SECONDS):
        window = journal.begun(calm + step, calm + step + _WINDOW_SECONDS)
        if _share_in_time(window) >= _GOALS[2] * share and _p99_of_admitted(window) <= limit:
            return float(step)
    return float("inf")


def _share_in_time(journal: Journal) -> float:
    return float((journal.good & (journal.ended - journal.began <= _DEADLINE)).mean())


_CROWDS = (32, 256, 1024, 4096)
_CROWD_SECONDS = 3


def embedded_model() -> Iterator[Row]:
    """The embedded model: as many keep-alive connections as wrk can drive from the other core, in a closed loop."""
    with _pinned(SERVE, {}) as service:
        wrk = Wrk(
            url=f"http://{HOST}:{service.port}{_ASK.path}",
            headers={"Content-Type": "application/json", "X-Request-Timeout-Ms": str(_ASK.deadline_ms)},
            body=_ASK.body,
            cores=str(_LOAD_CORE),
            folder=WORK / "wrk",
            name="overload",
        )
        wrk.run(_CROWDS[0], 1)
        with Probes(service.admin_port, "/readyz") as ready:
            bursts = {connections: wrk.run(connections, _CROWD_SECONDS) for connections in _CROWDS}
    good = {
        connections: (counts.requests - counts.errors.get("status", 0)) / counts.seconds
        for connections, counts in bursts.items()
    }
    peak = max(good.values())
    figures = "; ".join(
        f"{connections:,} connections: {good[connections] / peak:.0%} of peak, "
        f"{counts.errors.get('status', 0) / counts.requests:.0%} refused, p99 {counts.p99_ms:.0f} ms"
        for connections, counts in bursts.items()
    )
    yield Row(
        "the embedded model, closed loop of wrk",
        "what was measured",
        f"peak {peak:,.0f} a second; {figures}; the admin listener's /readyz within {_PROBE_SECONDS * 1000:.0f} ms: "
        f"{ready.share_within(_PROBE_SECONDS):.1%}",
        ok=None,
    )

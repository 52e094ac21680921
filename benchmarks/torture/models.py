"""Models that come and go: activations under load, artefacts that are broken, hostile or large."""

import http.client
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import NamedTuple

import numpy as np

from benchmarks.processes import busy_seconds, stolen_seconds
from benchmarks.torture.artefacts import (
    FACTORS,
    WIDTH,
    artefact_of,
    rollout,
    spoil,
    write_good,
    write_hostile,
    write_large,
)
from benchmarks.torture.clients import Crowd, Load
from benchmarks.torture.exchanges import HOST, UNSENT, Ask, Journal
from benchmarks.torture.openloop import OpenLoop
from benchmarks.torture.report import Row
from benchmarks.torture.service import Service, pss_mb, serving, tree_of

_NAME = "scored"
_TIMES = 100
_EVERY = 3
_OK, _NOT_FOUND, _REFUSED = 200, 404, 422
_PAUSE_SECONDS = 0.01
_WATCHED_SECONDS = 5.0
_ASK_SECONDS = 120.0
_LARGE = "large"
_LARGE_CONNECTIONS = 600
_LARGE_TIMES = 7
_LARGE_WORKERS = 4
_LARGE_SETTLED_SECONDS, _LARGE_MORE_MB = 10.0, 450
_LARGE_SECONDS = 30.0
_LEAD_SECONDS, _BEFORE_SECONDS = 3.0, 8.0
_ACTIVATED, _TOO_SLOW = "activated", "activated when the load was over"
_RUNGS, _RUNG_SECONDS = (2_000.0, 4_000.0, 7_000.0, 11_000.0, 15_000.0, 20_000.0), 1.5
_LOOK_SECONDS = 0.05
_HALF = 0.5
_CORES = os.cpu_count() or 1
_MORE = 3
_LOAD_TIMEOUT = 20.0
_LOAD_MEMORY = 2 * 1024**3


def _reply(version: str) -> bytes:
    answer = {"prediction": FACTORS[version], "status": "success", "model": _NAME, "version": version}
    return json.dumps(answer, separators=(",", ":")).encode()


_ASK = Ask(
    path=f"/models/{_NAME}/predict",
    body=json.dumps({"features": [1.0] * WIDTH}, separators=(",", ":")).encode(),
    replies=tuple(map(_reply, FACTORS)),
)


@contextmanager
def _models() -> Iterator[Path]:
    """A directory with two good versions of one model."""
    with TemporaryDirectory() as directory:
        models = Path(directory) / "models"
        for version in FACTORS:
            write_good(models, _NAME, version)
        yield models


def activate(service: Service, name: str, version: str) -> tuple[int, str]:
    """Status of the operation and, when it was refused, the reason."""
    connection = http.client.HTTPConnection(HOST, service.admin_port, timeout=_ASK_SECONDS)
    try:
        connection.request("POST", f"/models/{name}/versions/{version}/activate")
        response = connection.getresponse()
        body = json.loads(response.read())
    finally:
        connection.close()
    return response.status, body.get("detail", "")


def _live(service: Service) -> set[bytes]:
    """What new connections are answered with now."""
    return {service.send(_ASK, _ASK_SECONDS)[1] for _ in range(2 * service.workers_wanted)}


def activations() -> Iterator[Row]:
    """100 activations to and fro under load, a third of them of a corrupt version: inline, and in runners."""
    for placement in ("inline", "runner"):
        yield from _activations(placement)


def _activations(placement: str) -> Iterator[Row]:
    with _models() as models:
        shutil.copytree(models / _NAME / "1", models / _NAME / "3")
        spoil(artefact_of(models / _NAME / "3"))
        rollout(models, _NAME, f'live = "1"\nplacement = "{placement}"\n')
        with serving(models, "activations") as service, Load(_crowd(service)) as load:
            before = service.worker_pids()
            live, seconds, unexpected, reasons, disagreeing = "1", [], [], set(), 0
            for number in range(_TIMES):
                corrupt = number % _EVERY == _EVERY - 1
                version = "3" if corrupt else ("2" if live == "1" else "1")
                at = monotonic()
                status, reason = activate(service, _NAME, version)
                seconds.append(monotonic() - at)
                if corrupt:
                    reasons.add(reason)
                else:
                    live = version
                if status != (_REFUSED if corrupt else _OK):
                    unexpected.append(f"{status} {reason}")
                disagreeing += _live(service) != {_reply(live)}
            journal = load.stop()
            same = service.worker_pids() == before
    yield Row(
        f"{_TIMES} activations to and fro under load, a third of them corrupt, placement {placement}",
        "0 failed or lost requests, answers of two versions only",
        f"of {len(journal):,} requests {len(journal.lost)} lost, {journal.unsent} not taken, {journal.wrong} with an "
        f"error or another answer; an activation took {median(seconds) * 1000:.0f} ms, at most "
        f"{max(seconds) * 1000:.0f}; after {disagreeing} of them not every worker answered with the live version",
        ok=not len(journal.lost) and not journal.unsent and not journal.wrong and not disagreeing and same,
    )
    yield Row(
        "the same: the corrupt ones",
        "refused with the reason",
        f"{_TIMES // _EVERY} refused: {'; '.join(sorted(reasons))}" if not unexpected else "; ".join(unexpected),
        ok=not unexpected and all("sha256" in reason for reason in reasons),
    )


def _crowd(service: Service) -> Crowd:
    return Crowd(service.port, asks=(_ASK,), pause_seconds=_PAUSE_SECONDS)


def corrupt_on_disk() -> Iterator[Row]:
    """SIGKILL of a worker while the artefact of the live version is corrupt."""
    with _models() as models:
        artefact = artefact_of(models / _NAME / "2")
        good = artefact.read_bytes()
        with serving(models, "corrupt-on-disk") as service, Load(_crowd(service)) as load:
            sleep(1)
            spoil(artefact)
            victim = min(service.worker_pids())
            at = monotonic()
            os.kill(victim, signal.SIGKILL)
            service.until(lambda: bool(_reasons(service)), "the reason why no worker comes back")
            sleep(_WATCHED_SECONDS)
            alone = len([worker for worker in service.workers() if worker.ready])
            reasons = _reasons(service)
            mended = monotonic()
            artefact.write_bytes(good)
            back = service.until(partial(service.is_whole_without, {victim}), "the worker to come back")
            journal = load.stop()
    after = journal.begun(at + 0.1)
    yield Row(
        "SIGKILL of a worker while the artefact on disk is corrupt",
        "100% available",
        f"for {mended - at:.0f} s {alone} worker served: of {len(after):,} requests {len(after.lost)} lost, "
        f"{after.unsent} not taken, {after.wrong} with an error; {len(journal.lost)} lost with the killed one; longest "
        f"time without a good answer {journal.longest_silence(at, mended) * 1000:.0f} ms; the new one: "
        f"{'; '.join(reasons) or 'no reason given'}; back {back:.1f} s after the artefact was whole again",
        ok=alone == 1 and not len(after.lost) and not after.unsent and not after.wrong and bool(reasons),
    )


def _reasons(service: Service) -> list[str]:
    """What the admin listener gives as reasons of restarts that have to do with the artefact."""
    _, body = service.ask("/workers")
    _, ready = service.ask("/readyz")
    texts = {str(worker["reason"]) for worker in json.loads(body)} | {json.loads(ready).get("detail", "")}
    log = service.log.read_text("utf-8")
    texts |= {str(json.loads(line).get("reason")) for line in log.splitlines() if '"worker_died"' in line}
    return sorted(text for text in texts if "sha256" in text)


def large_model() -> Iterator[Row]:
    """Opening an ONNX model of 500 MB in a runner: memory, and then, some times, while another serves at half load."""
    first, *versions = (str(number) for number in range(2, 3 + _LARGE_TIMES))
    with _models() as models:
        write_good(models, _LARGE, "1")
        size = write_large(models, _LARGE, [first, *versions]).stat().st_size / 1e6
        rollout(models, _LARGE, 'live = "1"\nplacement = "runner"\n')
        os.sync()  # else the disk is busy with what was just written while it is measured
        with serving(models, "large", workers=_LARGE_WORKERS) as service:
            yield _memory_of_large(service, first, size)
            trials = [_open_large(service, version) for version in versions]
    ratios = [trial.p99 / trial.p99_before for trial in trials]
    lost, unsent, wrong = (sum(each) for each in zip(*(trial.failures for trial in trials), strict=True))
    yield Row(
        f"opening an ONNX model of {size:.0f} MB in a runner, {_LARGE_TIMES} times, while {_LARGE_WORKERS} workers "
        "answer for another one inline at half load "
        f"({median(trial.rate for trial in trials):,.0f} a second, clients on the same cores, which are "
        f"{median(trial.busy for trial in trials):.0%} busy)",
        f"that one's p99 at most {_MORE} times",
        f"{median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}): "
        f"{median(trial.p99_before for trial in trials) * 1000:.2f} ms before, "
        f"{median(trial.p99 for trial in trials) * 1000:.2f} ms during the "
        f"{median(trial.seconds for trial in trials):.1f} s, of which the machine's host took "
        f"{median(trial.stolen for trial in trials):.1%} ({min(trial.stolen for trial in trials):.1%} to "
        f"{max(trial.stolen for trial in trials):.1%}); "
        f"{', '.join(sorted({trial.outcome for trial in trials}))}; {lost} lost, {unsent} "
        f"not taken, {wrong} with an error",
        ok=all(trial.outcome == _ACTIVATED for trial in trials) and median(ratios) <= _MORE and not lost and not wrong,
    )


def _memory_of_large(service: Service, version: str, size: float) -> Row:
    sizes: list[float] = []
    with ThreadPoolExecutor() as threads:
        activating = threads.submit(activate, service, _LARGE, version)
        while not activating.done():
            sizes.append(_pss_of_all(service))
            sleep(_LOOK_SECONDS)
        status, reason = activating.result()
    sleep(_LARGE_SETTLED_SECONDS)
    after = _pss_of_all(service)
    return Row(
        f"{_LARGE_WORKERS} workers, an ONNX model of {size:.0f} MB in a runner",
        f"memory (PSS) of all processes {_LARGE_SETTLED_SECONDS:g} s after opening at most the file plus "
        f"{_LARGE_MORE_MB} MB",
        f"{after:.0f} MB: the file plus {after - size:.0f}; {max(sizes):.0f} MB at its peak"
        + (f"; {status} {reason}" if status != _OK else ""),
        ok=status == _OK and after <= size + _LARGE_MORE_MB,
    )


def _pss_of_all(service: Service) -> float:
    total = 0.0
    for pid in tree_of(service.pid):
        with suppress(OSError):  # it has ended
            total += pss_mb(pid)
    return total


class _Trial(NamedTuple):
    """What opening a version did to the latency of another model, in seconds."""

    rate: float
    busy: float
    """The share of all cores that was in use before."""
    p99_before: float
    p99: float
    seconds: float
    stolen: float
    """The share of that time for which the machine's host kept a core from work."""
    outcome: str
    failures: tuple[int, int, int]
    """How many requests were lost, not taken, and answered with an error."""


def _open_large(service: Service, version: str) -> _Trial:
    rate = _half_load(service)  # anew each time: how much that is, is for the machine's other guests to say
    loop = OpenLoop(service.port, _ASK, ((rate, _LARGE_SECONDS),), _LARGE_CONNECTIONS)
    with ThreadPoolExecutor() as threads:
        sending = threads.submit(loop.run)
        sleep(_LEAD_SECONDS)
        looked, busy = monotonic(), _of_all_cores(busy_seconds)
        sleep(_BEFORE_SECONDS)
        began, busy, stolen = monotonic(), _of_all_cores(busy_seconds) - busy, _of_all_cores(stolen_seconds)
        status, reason = activate(service, _LARGE, version)
        ended, stolen = monotonic(), _of_all_cores(stolen_seconds) - stolen
        start, journal = sending.result()
    return _Trial(
        rate=rate,
        busy=busy / (began - looked) / _CORES,
        p99_before=_p99(journal.begun(max(start, began - _BEFORE_SECONDS), began)),
        p99=_p99(journal.begun(began, ended)),
        seconds=ended - began,
        stolen=stolen / (ended - began),
        outcome=f"{status} {reason}" if status != _OK else _ACTIVATED if ended < start + _LARGE_SECONDS else _TOO_SLOW,
        failures=(len(journal.lost), journal.unsent, journal.wrong),
    )


def _half_load(service: Service) -> float:
    """Requests a second that keep all cores half busy, with what it takes to send them; at most the last rung."""
    loop = OpenLoop(service.port, _ASK, tuple((rate, _RUNG_SECONDS) for rate in _RUNGS), _LARGE_CONNECTIONS)
    times, busy = [], []
    with ThreadPoolExecutor() as threads:
        sending = threads.submit(loop.run)
        while not sending.done():
            times.append(monotonic())
            busy.append(_of_all_cores(busy_seconds))
            sleep(_LOOK_SECONDS)
        start, _ = sending.result()
    ends = start + np.arange(len(_RUNGS) + 1) * _RUNG_SECONDS
    shares = np.diff(np.interp(ends, times, busy)) / _RUNG_SECONDS / _CORES
    return float(np.interp(_HALF, np.maximum.accumulate(shares), _RUNGS))


def _of_all_cores(seconds: Callable[[int], float]) -> float:
    return sum(map(seconds, range(_CORES)))


def _p99(journal: Journal) -> float:
    """Of the time until the reply; those that found no connection free have none."""
    return float(np.percentile(np.where(journal.outcome == UNSENT, np.inf, journal.ended - journal.began), 99))


def hostile() -> Iterator[Row]:
    """Artefacts that nobody should load."""
    with _models() as models:
        trace = models.parent / "trace"
        versions = write_hostile(models, _NAME, trace)
        rollout(models, _NAME, 'live = "1"\n')
        variables = {
            "PYTHONPATH": os.pathsep.join([str(models.parent / "code"), os.environ.get("PYTHONPATH", "")]),
            "WEIGHBRIDGE_LOAD_TIMEOUT": str(_LOAD_TIMEOUT),
            "WEIGHBRIDGE_LOAD_MEMORY_BYTES": str(_LOAD_MEMORY),
        }
        with serving(models, "hostile", variables) as service, Load(_crowd(service)) as load:
            before = service.worker_pids()
            answers = {what: activate(service, _NAME, version) for what, version in versions.items()}
            lost_workers = len(before - service.worker_pids())
            journal = load.stop()
        ran = trace.exists()
    loaded = [what for what, (status, _) in answers.items() if status not in (_REFUSED, _NOT_FOUND)]
    unexplained = [what for what, (_, reason) in answers.items() if not reason]
    yield Row(
        f"{len(answers)} hostile artefacts: {', '.join(answers)}",
        "all refused with the reason, no code run, no worker lost",
        f"{len(answers) - len(loaded)} refused{'' if not loaded else ', but not ' + ', '.join(loaded)}, "
        f"{len(unexplained)} without a reason; {'code was run' if ran else 'no code run'}, {lost_workers} workers "
        f"lost; of {len(journal):,} requests meanwhile {len(journal.lost)} lost, {journal.wrong} with an error",
        ok=not loaded and not unexplained and not ran and not lost_workers and not len(journal.lost),
    )

"""Models that compute for long, and the requests beside them."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import numpy as np
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

import weighbridge
from benchmarks.torture.artefacts import WIDTH, write_heavy
from benchmarks.torture.clients import Crowd, Load
from benchmarks.torture.exchanges import Ask, ask_of
from benchmarks.torture.heavy import Fault
from benchmarks.torture.report import Row
from benchmarks.torture.service import Service, serving

_HEAVY, _FOREST = "heavy", "forest"
_BUSY_MS = 50
_CLIENTS = 16
_ROUNDS = 5
_SECONDS = 3.0
_TIMES, _PLUS_SECONDS = 3, 0.001
_FOREST_ROWS = 100_000
_OK = 200


def beside() -> Iterator[Row]:
    """16 clients of a model that keeps Python busy, and one of the embedded model."""
    with TemporaryDirectory() as models:
        write_heavy(Path(models), _HEAVY, call_ms=_BUSY_MS)
        with serving(Path(models), "beside", workers=1) as service:
            idle, busy = [], []
            for _ in range(_ROUNDS):
                idle.append(_p50(service))
                crowd = Crowd(service.port, kept=_CLIENTS, fresh=0, asks=(ask_of(_HEAVY, [1.0] * WIDTH),))
                with Load(crowd) as load:
                    sleep(0.5)
                    busy.append(_p50(service))
                    journal = load.stop()
    limit = _TIMES * median(idle) + _PLUS_SECONDS
    yield Row(
        f"{_CLIENTS} clients of a model that keeps Python busy for {_BUSY_MS} ms, one worker",
        f"p50 of /predict beside it at most {_TIMES} times its usual one plus {_PLUS_SECONDS * 1000:g} ms",
        f"{median(busy) * 1000:.2f} ms ({min(busy) * 1000:.2f} to {max(busy) * 1000:.2f}), usually "
        f"{median(idle) * 1000:.2f} ms; of the last {len(journal):,} requests to the model {len(journal.lost)} lost, "
        f"{journal.wrong} with an error",
        ok=median(busy) <= limit and not len(journal.lost) and not journal.wrong,
    )


def _p50(service: Service) -> float:
    """Of one client that asks the embedded model over and over."""
    with Load(Crowd(service.port, kept=1, fresh=0)) as load:
        sleep(_SECONDS)
        journal = load.stop()
    return float(np.median((journal.ended - journal.began)[journal.good]))


def long_calls() -> Iterator[Row]:
    """A call of seconds, and a forest that scores 100,000 rows of one request, beside the usual load."""
    with TemporaryDirectory() as directory:
        models = Path(directory)
        write_heavy(models, _HEAVY)
        columns, classes = load_iris(return_X_y=True)
        forest = RandomForestClassifier(300, random_state=0).fit(columns, classes)
        weighbridge.package(forest, models / _FOREST / "1", example=columns)
        rows = np.resize(columns, (_FOREST_ROWS, WIDTH)).tolist()
        many = Ask(f"/models/{_FOREST}/predict", json.dumps([{"features": row} for row in rows]).encode(), replies=())
        asks = {"a call of 6 s": ask_of(_HEAVY, [Fault.LONG, 0, 0, 0])}
        asks[f"RandomForest(300), {_FOREST_ROWS:,} rows in one request"] = many
        with serving(models, "long-calls") as service:
            for fault, ask in asks.items():
                yield _long_call(service, fault, ask)


def _long_call(service: Service, fault: str, ask: Ask) -> Row:
    before = service.worker_pids(), {runner["pid"] for runner in service.runners()}
    with Load(Crowd(service.port, pause_seconds=0.01)) as load:
        sleep(0.5)
        began = monotonic()
        status, _ = service.send(ask)
        ended = monotonic()
        journal = load.stop()
    same = before == (service.worker_pids(), {runner["pid"] for runner in service.runners()})
    silence = journal.longest_silence(began, ended)
    return Row(
        fault,
        "answered, and no process is ended",
        f"{status} after {ended - began:.1f} s, {'no' if same else 'a'} process ended; of {len(journal):,} requests "
        f"to the embedded model meanwhile {len(journal.lost)} lost, {journal.wrong} with an error, longest time "
        f"without a good answer {silence * 1000:.0f} ms",
        ok=status == _OK and same and not len(journal.lost) and not journal.wrong,
    )

"""`python -m benchmarks.runtimes`: what one row costs beyond the runtime's own call on an array that is ready.

One client, one connection, one row a request. What is added is the processor time of the serving core for a request,
less that of the own call: it holds everything, from reading and parsing HTTP, validation and metrics to the row in an
array, the outputs in JSON, and the transport.

A call that is made over and over finds all of itself in the caches, and takes a half or a quarter of what it takes once
in a while. So the own call is made by a server, too, of the same loop, which looks at nothing and answers canned bytes:
its processor time with the call, less that without. Bursts of all three alternate. And as the core rests between two
requests, each rest of which costs a virtual machine tens of microseconds that are neither the library's nor ours, a
process of the lowest priority keeps it awake.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, cast

import lightgbm
import numpy as np
import onnxruntime
import uvloop
import xgboost
from palmerpenguins import load_penguins
from skl2onnx import to_onnx
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from typing_extensions import override

import weighbridge
from benchmarks.page import publish
from benchmarks.results import WORK, BenchmarkFailed
from benchmarks.torture.exchanges import HOST
from benchmarks.torture.service import Service, free_port, serving
from benchmarks.wrk import Wrk, check_tools

_SERVER_CORE, _LOAD_CORE = 0, 1
_ROUNDS = 5
_SECONDS = 1
_WANTED_US = 60
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}"


@dataclass(frozen=True, slots=True)
class Case:
    """A packaged model, a row for it as clients send it, and the runtime's own call for that row, made ready."""

    name: str
    row: Mapping[str, Any]
    own: Callable[[], object]
    needs_frame: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians, in microseconds of the serving core: for the own call, for a request, and what that adds.

    A request to a model `in_runner` takes the time of two processes, which hand over to each other.
    """

    own: float
    request: float
    added: float
    in_runner: bool


def main() -> int:
    """Print the table, and publish it if that was asked for; 0 when all that is called inline is within limits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.md")
    publishing = parser.parse_args().publish
    try:
        check_tools()
        with TemporaryDirectory() as directory:
            packaged = list(cases(Path(directory)))
            figures = {case.name: _measure(case, Path(directory)) for case in packaged}
    except BenchmarkFailed as exc:
        sys.stderr.write(f"benchmark failed: {exc}\n")
        return 1
    table = _as_markdown(packaged, figures)
    sys.stdout.write(table)
    if publishing:
        publish("runtimes", table)
    return 0 if all(found.added < _WANTED_US or found.in_runner for found in figures.values()) else 1


def cases(models: Path) -> Iterator[Case]:
    """The cases, packaged into a directory of models."""
    features, classes = load_breast_cancer(return_X_y=True)
    row = features[:1]
    vector = {"features": row[0].tolist()}
    weights = np.linspace(-1, 1, features.shape[1])

    weighbridge.package(weights, models / "linear" / "1", example=features)
    yield Case("linear", vector, lambda: row @ weights)

    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, classes)
    weighbridge.package(fitted, models / "sklearn" / "1", example=features)
    yield Case("sklearn", vector, lambda: (fitted.predict(row), fitted.predict_proba(row)))

    boosted = xgboost.XGBClassifier(n_estimators=50, max_depth=4).fit(features, classes)
    weighbridge.package(boosted, models / "xgboost" / "1", example=features)
    booster = boosted.get_booster()
    booster.set_param({"nthread": 1})
    single = row.astype(np.float32)
    yield Case("xgboost", vector, lambda: booster.inplace_predict(single, validate_features=False))

    light = lightgbm.LGBMClassifier(n_estimators=50, verbose=-1).fit(features, classes)
    weighbridge.package(light, models / "lightgbm" / "1", example=features)
    yield Case("lightgbm", vector, lambda: light.booster_.predict(row, num_threads=1))

    converted = to_onnx(fitted, row.astype(np.float32), options={"zipmap": False})
    weighbridge.package(converted, models / "onnx" / "1", example=features)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(converted.SerializeToString(), options, providers=["CPUExecutionProvider"])
    [taken] = session.get_inputs()
    yield Case("onnx", vector, lambda: session.run(None, {taken.name: single}))

    yield from _cases_with_frames(models)


def _cases_with_frames(models: Path) -> Iterator[Case]:
    diabetes, target = load_diabetes(return_X_y=True, as_frame=True)
    numbers = diabetes.head(1)
    plain = LinearRegression().fit(diabetes, target)
    weighbridge.package(plain, models / "sklearn-named" / "1", example=diabetes)
    yield Case("sklearn-named", numbers.iloc[0].to_dict(), lambda: plain.predict(numbers), needs_frame=True)

    penguins = load_penguins()
    columns = ["island", "bill_length_mm", "flipper_length_mm", "sex"]
    mixed = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["island", "sex"]),
            (SimpleImputer(), ["bill_length_mm", "flipper_length_mm"]),
        ),
        LogisticRegression(max_iter=1000),
    ).fit(penguins[columns], penguins["species"])
    weighbridge.package(mixed, models / "sklearn-mixed" / "1", example=penguins[columns])
    frame = penguins[columns].head(1)
    cells = {"island": "Torgersen", "bill_length_mm": 39.1, "flipper_length_mm": 181.0, "sex": "male"}
    yield Case("sklearn-mixed", cells, lambda: (mixed.predict(frame), mixed.predict_proba(frame)), needs_frame=True)


def _measure(case: Case, models: Path) -> Figures:
    """Bursts of the three servers by turns, on the same core."""
    owns, requests = [], []
    with _serving(models) as service, _awake(), _Canned() as canned:
        body = json.dumps(case.row).encode()
        [worker] = service.worker_pids()
        runners = [runner["pid"] for runner in service.runners(case.name)]
        ours = partial(_burst, case, body, service.port, [f"{pid}/task/*/schedstat" for pid in (worker, *runners)])
        bare = partial(_burst, case, body, canned.port, [f"self/task/{canned.native_id}/schedstat"])
        for number in range(-1, _ROUNDS):
            canned.call = None
            transport = bare()
            canned.call = case.own
            own, request = bare() - transport, ours()
            if number >= 0:  # the first time was to warm up
                owns.append(own)
                requests.append(request)
    added = median(request - own for request, own in zip(requests, owns, strict=True))
    return Figures(median(owns), median(requests), added, in_runner=bool(runners))


@contextmanager
def _awake() -> Iterator[None]:
    """The serving core never rests: whatever else wants to run there goes first."""
    process = subprocess.Popen(
        ["taskset", "-c", str(_SERVER_CORE), "chrt", "--idle", "0", sys.executable, "-c", "while True: pass"]
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _serving(models: Path) -> Iterator[Service]:
    """The service with all models, on a core that this process uses when the service rests."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_SERVER_CORE})
    try:
        with serving(models, "runtimes", workers=1) as service:
            yield service
    finally:
        os.sched_setaffinity(0, before)


def _burst(case: Case, body: bytes, port: int, tasks: Sequence[str]) -> float:
    """Microseconds of processor time for a request, of the tasks with these statistics."""
    url = f"http://{HOST}:{port}/models/{case.name}/predict"
    wrk = Wrk(url, {"Content-Type": "application/json"}, body, str(_LOAD_CORE), WORK / "wrk", f"runtime-{case.name}")
    before = _cpu_us(tasks)
    counts = wrk.run(1, _SECONDS)
    if counts.errors or not counts.requests:
        raise BenchmarkFailed(f"{case.name}: expected only good replies, got {counts}")
    return (_cpu_us(tasks) - before) / counts.requests


def _cpu_us(tasks: Sequence[str]) -> float:
    files = chain.from_iterable(map(Path("/proc").glob, tasks))
    return sum(int(task.read_text("ascii").split()[0]) for task in files) / 1000


class _Canned(threading.Thread):
    """A server that answers whatever comes with the same bytes, after a call if it has one to make."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.port = free_port()
        self.call: Callable[[], object] | None = None
        self._loop = uvloop.new_event_loop()

    def __enter__(self) -> Self:
        self._loop.run_until_complete(self._loop.create_server(lambda: _Answers(self), HOST, self.port))
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()
        self._loop.close()

    @override
    def run(self) -> None:
        self._loop.run_forever()


class _Answers(asyncio.Protocol):
    def __init__(self, server: _Canned) -> None:
        self._server = server

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        if self._server.call is not None:
            self._server.call()
        self._transport.write(_ANSWER)


def _as_markdown(packaged: list[Case], figures: Mapping[str, Figures]) -> str:
    rows = [["model", "called", "own call", "request", "added by Weighbridge"], ["---"] * 5]
    for case in sorted(packaged, key=lambda case: case.needs_frame):
        found = figures[case.name]
        name = f"{case.name} (a data frame is made)" if case.needs_frame else case.name
        where = "in a runner" if found.in_runner else "inline"
        rows.append([name, where, *(f"{figure:.0f} us" for figure in (found.own, found.request, found.added))])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    sys.exit(main())

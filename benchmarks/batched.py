"""`python -m benchmarks.batched`: servers that make one call of a trained model for the rows of many requests.

Each server has one model, and every request one row. The peers collect requests as their documentation shows, for at
most `MOST_ROWS` rows and `WAIT_MS`; bare FastAPI calls the model for each.
"""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer

import weighbridge
from benchmarks.catalogue import SERVERS, Request, Rows, Scenario, Server, compact, uvicorn
from benchmarks.load import Load, say
from benchmarks.page import publish
from benchmarks.processes import RunningServer, all_started
from benchmarks.results import WORK, BenchmarkFailed, Burst, Ratio
from benchmarks.servers.trained import COUNTS, MODEL, MOST_ROWS, ONNX, WAIT_MS, fitted
from benchmarks.wrk import check_tools

_TITLES = {
    "boosting": "scikit-learn, HistGradientBoosting",
    "forest": "scikit-learn, RandomForest(100)",
    "xgboost": "XGBoost, 100 trees",
    "lightgbm": "LightGBM, 100 trees",
    "onnx": "ONNX, RandomForest(100)",
}
_OURS, _BARE = "weighbridge", "fastapi"
_WORK = WORK / "batched"
_NAME = "scored"
_TOLERANCE = 1e-4  # for single precision


class _Calls(NamedTuple):
    """How many calls of the model there were, and with how many rows."""

    calls: int
    rows: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured for one model, by the names of the servers."""

    bursts: Mapping[str, list[Burst]]
    rows_per_call: Mapping[str, float]


def main() -> int:
    """Print the tables, and publish them if that was asked for; 0 when every reply of every burst was good."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped then, too
    try:
        check_tools()
        load = Load.from_another_core(options.connections)
        figures = {name: _measure(name, load, options) for name in options.models}
    except BenchmarkFailed as exc:
        sys.stderr.write(f"benchmark failed: {exc}\n")
        return 1
    conditions = load.conditions(options.rounds, options.seconds)
    waits = " and ".join(f"{SERVERS[peer].title} waits {wait} ms" for peer, wait in WAIT_MS.items())
    conditions["batches of the peers"] = f"at most {MOST_ROWS} rows, for which {waits}; BentoML adapts by itself"
    lines = "".join(f"- {name}: {value}\n" for name, value in conditions.items())
    markdown = "\n".join([lines, *(_table(_TITLES[name], found) for name, found in figures.items())])
    sys.stdout.write(markdown)
    if options.publish:
        publish("batched", markdown)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batched")
    servers = [_OURS, *_PEERS]
    parser.add_argument("--models", nargs="+", choices=_TITLES, default=list(_TITLES), help="default: all")
    parser.add_argument("--servers", nargs="+", choices=servers, default=servers, help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="bursts on each server; default 5")
    parser.add_argument("--seconds", type=int, default=3, help="length of a burst; default 3")
    parser.add_argument("--connections", type=int, default=64, help="keep-alive connections; default 64")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.md")
    return parser


# The servers

_ROW = Request(
    "/predict",
    encode=lambda rows: compact({"features": rows[0]}),
    decode=lambda body: [json.loads(body)["probabilities"][1]],
)


def _encode_v2(rows: Rows) -> bytes:
    row = {"name": "rows", "shape": [1, len(rows[0])], "datatype": "FP64", "data": rows[0]}
    return compact({"inputs": [row]})


def _like(name: str, request: Request, command: tuple[str, ...] | None = None, **variables: str) -> Server:
    """A server of the catalogue, with another model."""
    server = SERVERS[name]
    return replace(
        server,
        title=server.title.removesuffix(" with numpy"),
        command=command or server.command,
        requests={"single": request},
        variables={**server.variables, **variables},
    )


_PEERS = {
    _BARE: _like(_BARE, _ROW, uvicorn("fastapi_batched")),
    "bentoml": _like(
        "bentoml",
        replace(_ROW, encode=lambda rows: compact({"rows": rows}), decode=lambda body: [json.loads(body)[0][1]]),
        tuple(word.replace(":Linear", ":Batched") for word in SERVERS["bentoml"].command),
    ),
    "litserve": _like("litserve", _ROW, (*SERVERS["litserve"].command, "batched")),
    "mlserver": _like(
        "mlserver",
        Request(
            "/v2/models/batched/infer",
            _encode_v2,
            decode=lambda body: [json.loads(body)["outputs"][0]["data"][1]],
        ),
        MLSERVER_MODEL_NAME="batched",
        MLSERVER_MODEL_IMPLEMENTATION="benchmarks.servers.mlserver_model.Batched",
        MLSERVER_MODEL_MAX_BATCH_SIZE=str(MOST_ROWS),
        MLSERVER_MODEL_MAX_BATCH_TIME=str(WAIT_MS["mlserver"] / 1000),
    ),
}


def _with_model(server: Server, name: str) -> Server:
    """The server with a model that it fits for itself."""
    counts = _WORK / f"{name}-{server.name}.counts"
    np.zeros(2, np.int64).tofile(counts)
    variables = {MODEL: name, ONNX: str(_onnx_of(name)), COUNTS: str(counts)}
    return replace(server, variables={**server.variables, **variables})


def _ours(models: Path) -> Server:
    request = replace(
        _ROW,
        path=f"/models/{_NAME}/predict",
        decode=lambda body: [json.loads(body)["prediction"]["probabilities"][1]],
    )
    return _like(_OURS, request, WEIGHBRIDGE_MODELS=str(models), WEIGHBRIDGE_MODELS_WATCH="off")


def _onnx_of(name: str) -> Path:
    return _WORK / name / "model.onnx"


# The measurement


def _measure(name: str, load: Load, options: argparse.Namespace) -> Figures:
    say(_TITLES[name])
    scenario, models = _packaged(name)
    chosen = [_with_model(_PEERS[peer], name) for peer in _PEERS if peer in options.servers]
    chosen += [_ours(models)] if _OURS in options.servers else []
    with all_started([(server, scenario) for server in chosen], load.server_core) as running:
        before = {one.server.name: _calls(one, name) for one in running}
        bursts = load.by_turns(running, scenario, options.rounds, options.seconds)
        after = {one.server.name: _calls(one, name) for one in running}
    rows_per_call = {
        server: (after[server].rows - before[server].rows) / max(1, after[server].calls - before[server].calls)
        for server in bursts
    }
    return Figures(bursts, rows_per_call)


def _packaged(name: str) -> tuple[Scenario, Path]:
    """What is asked of a model, and the directory in which Weighbridge finds it."""
    folder = _WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    features, _ = load_breast_cancer(return_X_y=True)
    row = features[:1]
    model = fitted("forest" if name == "onnx" else name)
    [[_, expected]] = model.predict_proba(row)
    folder.mkdir(parents=True)
    packed: Any = model
    if name == "onnx":
        converted = to_onnx(model, row.astype(np.float32), options={"zipmap": False})
        _onnx_of(name).write_bytes(converted.SerializeToString())
        packed = _onnx_of(name)
    weighbridge.package(packed, folder / "models" / _NAME / "1", example=features)
    scenario = Scenario(name, "single", _TITLES[name], row.tolist(), _BARE, [float(expected)], _TOLERANCE)
    return scenario, folder / "models"


def _calls(running: RunningServer, name: str) -> _Calls:
    """Of the model so far; where Weighbridge calls it inline, none."""
    if running.server.name != _OURS:
        calls, rows = np.fromfile(_WORK / f"{name}-{running.server.name}.counts", np.int64)
        return _Calls(int(calls), int(rows))
    with running.awake():
        runners = running.runners()
    return _Calls(sum(one["calls"] for one in runners), sum(one["rows"] for one in runners))


# The tables


def _table(title: str, found: Figures) -> str:
    peers = [server for server in found.bursts if server != _OURS]
    best = max(peers, key=lambda server: _median(found.bursts[server], "per_second"), default=_OURS)
    names = {_BARE: "against bare FastAPI"}
    names[best] = f"against {SERVERS[best].title}" if best != _BARE else names[_BARE]
    names[best] += ", the best peer"
    columns = ["server", "requests/s", *names.values(), "p50", "p99", "rows per call", "CPU per request"]
    rows = [columns, ["---"] * len(columns)]
    for server, bursts in sorted(found.bursts.items(), key=lambda item: -_median(item[1], "per_second")):
        ratios = [_ratio(bursts, found.bursts.get(other, [])) for other in names]
        called = found.rows_per_call[server]
        rows.append(
            [
                SERVERS[server].title.removesuffix(" with numpy"),
                f"{_median(bursts, 'per_second'):,.0f}",
                *ratios,
                f"{_median(bursts, 'p50_ms'):.1f} ms",
                f"{_median(bursts, 'p99_ms'):.1f} ms",
                f"{called:.1f}" if called else "1, inline",
                f"{_median(bursts, 'cpu_us'):,.0f} us",
            ]
        )
    return f"### {title}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _ratio(bursts: list[Burst], others: list[Burst]) -> str:
    if not others:
        return ""
    ratio = Ratio.of(bursts, others)
    return f"{ratio.median:.2f} ({ratio.least:.2f} to {ratio.most:.2f})"


def _median(bursts: list[Burst], figure: str) -> float:
    figures: list[float] = [getattr(burst, figure) for burst in bursts]
    return median(figures)


if __name__ == "__main__":
    sys.exit(main())

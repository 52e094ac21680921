"""`python -m benchmarks.paired PATH`: this code against that of another checkout, which has an environment in `.venv`.

Both services are started on the same core with the same models. One stands still while the other has its burst, and
they begin by turns. A ratio below 1 in CPU, and above 1 in throughput, speaks for this code.
"""

import argparse
import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.catalogue import SCENARIOS, SERVERS, Request, Scenario, Server, compact
from benchmarks.load import Load
from benchmarks.processes import RunningServer, all_started
from benchmarks.results import BenchmarkFailed, Burst
from benchmarks.runtimes import Case, cases
from benchmarks.wrk import check_tools

_NEW, _OLD = "weighbridge", "before"
_EMBEDDED = ("single", "batch")
_MODELS = ("linear", "xgboost", "lightgbm", "onnx")
_WITHIN = 0.05
_TOLERANCE = 1e-5
_OK = 200


def main() -> int:
    """Print the table; 0 when no median of the ratios of CPU is worse by more than 5%, 1 otherwise."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the services are stopped then, too
    try:
        check_tools()
        load = Load.from_another_core(options.connections)
        with TemporaryDirectory() as directory:
            chosen = _chosen(Path(directory), options.of)
            checkouts = (SERVERS["weighbridge"], _other(options.path))
            servers = [(_server(one, directory, chosen), SCENARIOS["single"]) for one in checkouts]
            with all_started(servers, load.server_core) as running:
                scenarios = [SCENARIOS[name] for name in _EMBEDDED if name in options.of]
                scenarios += [_scenario(case, running[0]) for case in chosen]
                found = {one.title: load.by_turns(running, one, options.rounds, options.seconds) for one in scenarios}
    except BenchmarkFailed as exc:
        sys.stderr.write(f"benchmark failed: {exc}\n")
        return 1
    conditions = load.conditions(options.rounds, options.seconds)
    sys.stdout.write("".join(f"- {name}: {value}\n" for name, value in conditions.items()))
    sys.stdout.write(f"\n{_as_markdown(found)}")
    worst = max(median(_ratios(bursts, "cpu_us")) for bursts in found.values())
    return 0 if worst <= 1 + _WITHIN else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paired")
    parser.add_argument("path", type=Path, help="the other checkout")
    everything = (*_EMBEDDED, *_MODELS)
    parser.add_argument("--of", nargs="+", choices=everything, default=everything, help="default: all")
    parser.add_argument("--rounds", type=int, default=15, help="bursts on each; default 15")
    parser.add_argument("--seconds", type=int, default=2, help="length of a burst; default 2")
    parser.add_argument("--connections", type=int, default=32, help="keep-alive connections; default 32")
    return parser


def _other(path: Path) -> Server:
    return replace(SERVERS["weighbridge"], name=_OLD, title="before", environment=str(path.resolve() / ".venv"))


def _chosen(models: Path, names: list[str]) -> list[Case]:
    """The cases with these names, the only ones that there is a model of."""
    packaged = list(cases(models))
    chosen = [case for case in packaged if case.name in _MODELS and case.name in names]
    for case in packaged:
        if case not in chosen:
            shutil.rmtree(models / case.name)
    return chosen


def _server(server: Server, models: str, chosen: list[Case]) -> Server:
    requests = {case.name: _request(case) for case in chosen}
    variables = {"WEIGHBRIDGE_MODELS": models, "WEIGHBRIDGE_MODELS_WATCH": "off", "WEIGHBRIDGE_LOG_REQUESTS": "none"}
    return replace(server, requests={**server.requests, **requests}, variables={**server.variables, **variables})


def _request(case: Case) -> Request:
    body = compact(case.row)
    return Request(f"/models/{case.name}/predict", encode=lambda _: body, decode=_score)


def _score(body: bytes) -> list[float]:
    """What the model says of the one row: the prediction, or the probability of the last class."""
    prediction: Any = json.loads(body)["prediction"]
    return [prediction["probabilities"][-1] if isinstance(prediction, dict) else prediction]


def _scenario(case: Case, running: RunningServer) -> Scenario:
    """A row for the model, of which both services are to say what this one says now."""
    request = running.server.requests[case.name]
    with running.awake():
        status, body = running.ask(request, [[]])
        in_runners = [runner["model"] for runner in running.runners()]
    if status != _OK or case.name in in_runners:
        raise BenchmarkFailed(f"{case.name}: expected 200 and no runner, got {status}, and runners of {in_runners}")
    title = f"/models/{case.name}/predict"
    return Scenario(case.name, case.name, title, [[]], _OLD, request.decode(body), _TOLERANCE)


def _as_markdown(found: dict[str, dict[str, list[Burst]]]) -> str:
    columns = ["request", "CPU, before", "CPU, now", "ratio", "requests/s, before", "requests/s, now", "ratio"]
    rows = [columns, ["---"] * len(columns)]
    for title, bursts in found.items():
        cpu = [f"{median(burst.cpu_us for burst in bursts[server]):.1f} us" for server in (_OLD, _NEW)]
        speed = [f"{median(burst.per_second for burst in bursts[server]):,.0f}" for server in (_OLD, _NEW)]
        ratios = [_as_text(_ratios(bursts, figure)) for figure in ("cpu_us", "per_second")]
        rows.append([title, *cpu, ratios[0], *speed, ratios[1]])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _ratios(bursts: dict[str, list[Burst]], figure: str) -> list[float]:
    """Of each round: this code's figure in units of the other's."""
    pairs = zip(bursts[_NEW], bursts[_OLD], strict=True)
    return [getattr(new, figure) / getattr(old, figure) for new, old in pairs]


def _as_text(ratios: list[float]) -> str:
    return f"{median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    sys.exit(main())

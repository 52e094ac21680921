"""What it costs, and what more gives: memory, workers, shared calls, instances, the fast road behind the supervisor."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Thread
from time import monotonic, sleep

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier

import weighbridge
from benchmarks.results import ROOT, WORK, BenchmarkFailed
from benchmarks.torture.artefacts import WIDTH, write_heavy
from benchmarks.torture.exchanges import HOST, Ask, ask_of
from benchmarks.torture.report import Row
from benchmarks.torture.service import (
    DEADLINE,
    SERVE,
    Service,
    free_port,
    is_listening,
    private_mb,
    pss_mb,
    running,
    serving,
    tree_of,
)
from benchmarks.wrk import Wrk

_SERVER_CORE, _LOAD_CORE = "0", "1"
_CONNECTIONS = 32
_ROUNDS = 4
_SECONDS = 2
_SUPERVISOR_MB, _WORKER_MB = 45, 60
_TWICE = 1.8
_FULLEST = 0.6
_EVERYWHERE = f"0-{(os.cpu_count() or 1) - 1}"
_EMBEDDED = Ask()
_NAME = "scored"
_ROW = [1.0] * WIDTH
_HEAVY = ask_of(_NAME, _ROW)
_CLIENTS, _CALL_MS, _MORE = 48, 10, 15
_ROW_MS = 5
_MODELS, _MODEL_MB = (1, 10, 50), 25
_SETTLED_SECONDS = 2.0
_NO_SLOWER = 0.95
_AGAINST_FASTAPI, _AGAINST_CONSTANT = 10, 2
_OF_THE_CEILING = 0.9


def memory() -> Iterator[Row]:
    """Memory of the supervisor and of two workers, after some load."""
    with running(Service(name="memory")) as service:
        _wrk(service.port, "memory").run(_CONNECTIONS, _SECONDS)
        sleep(1)
        supervisor = pss_mb(service.pid)
        workers = [pss_mb(pid) for pid in service.worker_pids()]
    yield Row(
        "memory (PSS) with two workers, after load",
        f"supervisor under {_SUPERVISOR_MB} MB, each worker under {_WORKER_MB} MB",
        f"supervisor {supervisor:.1f} MB, workers {' and '.join(f'{size:.1f}' for size in workers)} MB",
        ok=supervisor < _SUPERVISOR_MB and max(workers) < _WORKER_MB,
    )


def shared_connections() -> Iterator[Row]:
    """How connections are shared by two workers."""
    with running(Service(name="workers")) as service:
        shares: list[float] = []
        look = Thread(target=lambda: shares.append(_share_of_the_fuller(service)))
        look.start()
        _wrk(service.port, "workers").run(_CONNECTIONS, _SECONDS)
        look.join()
    [fullest] = shares
    yield Row(
        f"{_CONNECTIONS} connections on two workers",
        f"none holds more than {_FULLEST:.0%}",
        f"the fuller one held {fullest:.0%}",
        ok=fullest <= _FULLEST,
    )


def shared_calls() -> Iterator[Row]:
    """Many clients of a model that takes as long for many rows as for one, against a single client."""
    with TemporaryDirectory() as models:
        write_heavy(Path(models), _NAME, call_ms=_CALL_MS)
        with serving(Path(models), "shared-calls", workers=1) as service:
            wrk = _wrk(service.port, "shared", ask=_HEAVY)
            clients = {"one": 1, "many": _CLIENTS}
            per_second = _by_turns({name: partial(_per_second, wrk, count) for name, count in clients.items()})
            [runner] = service.runners(_NAME)
    ratios = [many / one for one, many in zip(per_second["one"], per_second["many"], strict=True)]
    yield Row(
        f"{_CLIENTS} clients against one, model of {_CALL_MS} ms a call",
        f"at least {_MORE} times the answers",
        f"{median(ratios):.1f} times ({min(ratios):.1f} to {max(ratios):.1f}): {median(per_second['many']):,.0f} "
        f"against {median(per_second['one']):,.0f} a second, {runner['rows'] / runner['calls']:.1f} rows a call",
        ok=median(ratios) >= _MORE,
    )


def two_instances() -> Iterator[Row]:
    """Two runners on two cores against one, with a model of which each row takes a while."""
    with TemporaryDirectory() as models:
        for count in (1, 2):
            write_heavy(Path(models), f"{_NAME}-{count}", row_ms=_ROW_MS, options=f"instances = {count}\n")
        with serving(Path(models), "instances", workers=1) as service:
            wrks = {
                count: _wrk(service.port, f"instances-{count}", cores=_EVERYWHERE, ask=ask_of(f"{_NAME}-{count}", _ROW))
                for count in (1, 2)
            }
            per_second = _by_turns({str(count): partial(_per_second, wrk) for count, wrk in wrks.items()})
    ratios = [two / one for one, two in zip(per_second["1"], per_second["2"], strict=True)]
    yield Row(
        f"two instances against one, model of {_ROW_MS} ms a row",
        f"at least {_TWICE} times the throughput",
        f"{median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}): {median(per_second['2']):,.0f} "
        f"against {median(per_second['1']):,.0f} a second",
        ok=median(ratios) >= _TWICE,
    )


def many_models() -> Iterator[Row]:
    """1, 10 and 50 scikit-learn models, each in its runner."""
    columns, classes = load_breast_cancer(return_X_y=True)
    model = HistGradientBoostingClassifier(random_state=0).fit(columns, classes)
    found = {}
    with TemporaryDirectory() as directory:
        packaged = weighbridge.package(model, Path(directory) / "packaged" / "1", example=columns)
        for count in _MODELS:
            models = Path(directory) / f"models-{count}"
            for number in range(count):
                shutil.copytree(packaged.parent, models / f"{_NAME}-{number}")
            began = monotonic()
            with serving(models, f"{count}-models", workers=1) as service:
                seconds = monotonic() - began
                sleep(_SETTLED_SECONDS)
                runners = [int(runner["pid"]) for runner in service.runners()]
                found[count] = seconds, sum(map(pss_mb, tree_of(service.pid))), median(map(private_mb, runners))
    each = (found[_MODELS[-1]][1] - found[_MODELS[0]][1]) / (_MODELS[-1] - _MODELS[0])
    figures = "; ".join(
        f"{count}: ready after {seconds:.1f} s, {pss:.0f} MB, of them {private:.1f} private to a runner"
        for count, (seconds, pss, private) in found.items()
    )
    yield Row(
        f"{', '.join(map(str, _MODELS))} scikit-learn models (HistGradientBoosting), one worker",
        f"at most {_MODEL_MB} MB for each further one",
        f"memory (PSS) of all processes and time to readiness: {figures}; each further one {each:.1f} MB",
        ok=each <= _MODEL_MB,
    )


def _share_of_the_fuller(service: Service) -> float:
    sleep(_SECONDS / 2)
    held = [worker.connections for worker in service.workers()]
    return max(held) / max(1, sum(held))


def fast_road() -> Iterator[Row]:
    """One core: the service behind its supervisor and in one process, uvicorn's constant reply, bare FastAPI."""
    pinned = ("taskset", "-c", _SERVER_CORE)
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(running(Service(SERVE, name=f"road-{name}", workers=workers, prefix=pinned))).port
            for name, workers in (("behind", 1), ("alone", 0))
        }
        for module in ("constant_app", "fastapi_app"):
            uvicorn = ("uvicorn", f"benchmarks.servers.{module}:app", "--no-access-log", "--log-level", "warning")
            ports[module] = stack.enter_context(_peer(uvicorn, pinned))
        yield from _rows_of_the_road(f"keep-alive, {_CONNECTIONS} connections", _bursts_of_the_road(ports, {}))
        ports["ceiling"] = stack.enter_context(_peer(("benchmarks.servers.ceiling",), pinned))
        per_second = _bursts_of_the_road(ports, {"Connection": "close"})
        yield from _rows_of_the_road("a connection per request", per_second)


def _bursts_of_the_road(ports: Mapping[str, int], headers: Mapping[str, str]) -> dict[str, list[float]]:
    wrks = {name: _wrk(port, name, headers) for name, port in ports.items()}
    return _by_turns({name: partial(_per_second, wrk) for name, wrk in wrks.items()})


def _rows_of_the_road(title: str, per_second: Mapping[str, list[float]]) -> Iterator[Row]:
    ours = per_second["behind"]
    for name, other, wanted in (
        ("alone", "the same in one process (workers = 0)", _NO_SLOWER),
        ("constant_app", "uvicorn's constant reply", _AGAINST_CONSTANT),
        ("fastapi_app", "bare FastAPI", _AGAINST_FASTAPI),
        ("ceiling", "what wrk gets from a server that looks at nothing", _OF_THE_CEILING),
    ):
        if name not in per_second:
            continue
        ratios = [one / two for one, two in zip(ours, per_second[name], strict=True)]
        yield Row(
            f"the fast road behind the supervisor: {title}",
            f"at least {wanted} times {other}",
            f"{median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}): {median(ours):,.0f} against "
            f"{median(per_second[name]):,.0f} a second",
            ok=median(ratios) >= wanted,
        )


def _by_turns(bursts: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each burst once to warm up, then in every round, in another order each time."""
    figures: dict[str, list[float]] = {name: [] for name in bursts}
    names = list(bursts)
    for number in range(-1, _ROUNDS):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            figure = bursts[name]()
            if number >= 0:
                figures[name].append(figure)
    return figures


def _per_second(wrk: Wrk, connections: int = _CONNECTIONS) -> float:
    counts = wrk.run(connections, _SECONDS)
    if counts.errors or not counts.requests:
        raise BenchmarkFailed(f"{wrk.name}: expected only good replies, got {counts}; run it again with nothing else")
    return counts.requests / counts.seconds


def _wrk(
    port: int, name: str, headers: Mapping[str, str] | None = None, cores: str = _LOAD_CORE, ask: Ask = _EMBEDDED
) -> Wrk:
    given = {"Content-Type": "application/json", **(headers or {})}
    return Wrk(f"http://{HOST}:{port}{ask.path}", given, ask.body, cores, WORK / "wrk", f"torture-{name}")


@contextmanager
def _peer(module: tuple[str, ...], prefix: tuple[str, ...]) -> Iterator[int]:
    """A peer of the benchmarks, in our own environment: a module, and its arguments; the port it answers on."""
    port = free_port()
    process = subprocess.Popen([*prefix, sys.executable, "-m", *module, "--port", str(port)], cwd=ROOT)
    try:
        until = monotonic() + DEADLINE
        while not is_listening(port):
            if monotonic() > until:
                raise BenchmarkFailed(f"expected {module} to listen on port {port}, got nothing; start it by hand")
            sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()

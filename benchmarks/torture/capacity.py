"""What it costs, and what more workers give: memory, two workers against one, the fast road behind the supervisor."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from threading import Thread
from time import monotonic, sleep

from benchmarks.results import ROOT, WORK, BenchmarkFailed
from benchmarks.torture.exchanges import HOST, Ask
from benchmarks.torture.report import Row
from benchmarks.torture.service import DEADLINE, SERVE, SLOW, Service, free_port, is_listening, pss_mb, running
from benchmarks.torture.slow_model import CPU_MS
from benchmarks.wrk import Wrk

_SERVER_CORE, _LOAD_CORE = "0", "1"
_CONNECTIONS = 32
_ROUNDS = 4
_SECONDS = 2
_SUPERVISOR_MB, _WORKER_MB = 45, 60
_TWICE = 1.8
_FULLEST = 0.6
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


def two_workers() -> Iterator[Row]:
    """Two workers on two cores against one, with a model of 1 ms; how connections are shared."""
    variables = {CPU_MS: "1"}
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(running(Service(SLOW, name=f"{count}-workers", workers=count, variables=variables)))
            for count in (1, 2)
        )
        everywhere = f"0-{(os.cpu_count() or 1) - 1}"
        shares: list[float] = []

        def burst_on_two() -> float:
            look = Thread(target=lambda: shares.append(_share_of_the_fuller(two)))
            look.start()
            figure = _per_second(_wrk(two.port, "two", cores=everywhere))
            look.join()
            return figure

        per_second = _by_turns(
            {"one": lambda: _per_second(_wrk(one.port, "one", cores=everywhere)), "two": burst_on_two}
        )
    ratios = [more / less for less, more in zip(per_second["one"], per_second["two"], strict=True)]
    fullest = max(shares)
    yield Row(
        "two workers against one, model of 1 ms",
        f"at least {_TWICE} times the throughput",
        f"{median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}): {median(per_second['two']):,.0f} "
        f"against {median(per_second['one']):,.0f} a second",
        ok=median(ratios) >= _TWICE,
    )
    yield Row(
        f"{_CONNECTIONS} connections on two workers",
        f"none holds more than {_FULLEST:.0%}",
        f"the fuller one held {fullest:.0%}",
        ok=fullest <= _FULLEST,
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


def _per_second(wrk: Wrk) -> float:
    counts = wrk.run(_CONNECTIONS, _SECONDS)
    if counts.errors or not counts.requests:
        raise BenchmarkFailed(f"{wrk.name}: expected only good replies, got {counts}; run it again with nothing else")
    return counts.requests / counts.seconds


def _wrk(port: int, name: str, headers: Mapping[str, str] | None = None, cores: str = _LOAD_CORE) -> Wrk:
    ask = Ask()
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

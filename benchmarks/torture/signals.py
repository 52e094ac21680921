"""SIGTERM, SIGHUP and SIGKILL, under the load of clients that keep their connections and clients that do not."""

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from benchmarks.torture.artefacts import WIDTH, rollout, write_good
from benchmarks.torture.clients import Crowd, Load
from benchmarks.torture.exchanges import HOST, Ask, Journal, ask_of
from benchmarks.torture.report import Row
from benchmarks.torture.service import Service, client_ports, is_alive, running, tree_of

_TIMES = 20
_NAME = "scored"
_ASKS = (Ask(), ask_of(_NAME, [1.0] * WIDTH))
_DRAIN_DELAYS = (0.0, 0.5)
_DRAIN_TIMEOUT = 10.0
_PAUSE_SECONDS = 0.01
"""Of the clients where workers start under the load, which takes a second of processor time each."""
_KILL_SECONDS = 3.0
_REPLACED_SECONDS = 2.0
_ORPHAN_SECONDS = 2.0


@contextmanager
def _models() -> Iterator[dict[str, str]]:
    """The variables of a service with a model that has a runner."""
    with TemporaryDirectory() as models:
        write_good(Path(models), _NAME, "1")
        rollout(Path(models), _NAME, 'placement = "runner"\n')
        yield {"WEIGHBRIDGE_MODELS": models, "WEIGHBRIDGE_MODELS_WATCH": "off"}


def sigterm() -> Iterator[Row]:
    """20 times: start, load, SIGTERM in the middle of it."""
    with _models() as models:
        for delay in _DRAIN_DELAYS:
            yield _sigterm(delay, models)


def _sigterm(delay: float, models: Mapping[str, str]) -> Row:
    lost: list[float] = []
    wrong = answered = 0
    codes, seconds = [], []
    drain = {"WEIGHBRIDGE_DRAIN_DELAY": str(delay), "WEIGHBRIDGE_DRAIN_TIMEOUT": str(_DRAIN_TIMEOUT)}
    for _ in range(_TIMES):
        service = Service(name="sigterm", variables={**models, **drain})
        with running(service), Load(Crowd(service.port, asks=_ASKS)) as load:
            sleep(1)
            at = monotonic()
            service.signal(signal.SIGTERM)
            codes.append(service.process.wait())
            seconds.append(monotonic() - at)
            journal = load.stop()
        lost += [float(began) - at for began in journal.lost.began]
        wrong += journal.wrong
        answered += journal.answered
    limit = delay + _DRAIN_TIMEOUT
    good_ends = sum(not code for code in codes)
    return Row(
        f"{_TIMES} SIGTERMs, drain delay {delay:g} s, half of the requests to a model in a runner",
        f"0 requests sent and not answered; exit 0 within {limit:g} s",
        f"{len(lost)} of {answered + wrong + len(lost):,} not answered{_span(lost)}, "
        f"{wrong} answered with an error; "
        f"{good_ends} times exit 0, after {median(seconds):.2f} s, at most {max(seconds):.2f}",
        ok=not lost and not wrong and good_ends == _TIMES and max(seconds) <= limit,
    )


def _span(lost: list[float]) -> str:
    return f" (sent {min(lost):.3f} to {max(lost):.3f} s after the signal)" if lost else ""


def sighup() -> Iterator[Row]:
    """20 times SIGHUP to one service, each when the last has replaced all workers."""
    with (
        _models() as models,
        running(Service(name="sighup", variables=models)) as service,
        Load(replace(_crowd(service), asks=_ASKS)) as load,
    ):
        seconds, kept = [], 0
        for _ in range(_TIMES):
            sleep(0.2)
            before = service.worker_pids()
            service.signal(signal.SIGHUP)
            seconds.append(
                service.until(partial(service.is_whole_without, before), "new workers in the place of the old")
            )
            kept += len(before & service.worker_pids())
        journal = load.stop()
    yield Row(
        f"{_TIMES} SIGHUPs, half of the requests to a model in a runner",
        "0 lost, 0 errors",
        f"of {len(journal):,} requests {len(journal.lost)} lost, {journal.unsent} not taken, {journal.wrong} with an "
        f"error; all workers were new after {median(seconds):.1f} s, at most {max(seconds):.1f}",
        ok=not len(journal.lost) and not journal.unsent and not journal.wrong and not kept,
    )


def _crowd(service: Service) -> Crowd:
    return Crowd(service.port, pause_seconds=_PAUSE_SECONDS)


def sigkill() -> Iterator[Row]:
    """SIGKILL of a worker every 3 s for a minute: the oldest each time."""
    held: list[tuple[float, set[int]]] = []
    replaced: list[float] = []
    with running(Service(name="sigkill")) as service, Load(_crowd(service)) as load:
        order = [worker.pid for worker in service.workers()]
        for _ in range(_TIMES):
            sleep(max(0.0, _KILL_SECONDS - (monotonic() - held[-1][0] if held else 0.0)))
            present = [worker.pid for worker in service.workers()]
            order = [pid for pid in order if pid in present] + [pid for pid in present if pid not in order]
            victim = order[0]
            held.append((monotonic(), client_ports(victim, service.port)))
            os.kill(victim, signal.SIGKILL)
            replaced.append(service.until(partial(service.is_whole_without, {victim}), "another worker"))
        sleep(1)
        journal = load.stop()
    yield from _rows_of_kills(journal, held, replaced)


def _rows_of_kills(journal: Journal, held: list[tuple[float, set[int]]], replaced: list[float]) -> Iterator[Row]:
    lost = journal.lost
    astray, most = 0, 0
    for number, (at, ports) in enumerate(held):
        end = held[number + 1][0] if number + 1 < len(held) else float("inf")
        of_this = lost.where((lost.ended >= at) & (lost.ended < end))
        kept = of_this.where(of_this.client < Crowd(0).kept)
        astray += sum(int(port) not in ports for port in kept.port)
        most = max(most, len(of_this))
    astray += len(lost.where(lost.ended < held[0][0]))
    silences = [journal.longest_silence(at, at + _REPLACED_SECONDS) for at, _ in held]
    held_in_all = sum(len(ports) for _, ports in held)
    yield Row(
        f"SIGKILL of a worker every {_KILL_SECONDS:g} s for a minute",
        "lost: only what that worker held",
        f"of {len(journal):,} requests {len(lost)} lost, at most {most} at a time, where the killed workers held "
        f"{held_in_all} connections and the clients brought new ones; {astray} of them on a kept connection that "
        f"it did not hold; {journal.unsent} not taken, {journal.wrong} with an error",
        ok=not astray and not journal.wrong and not journal.unsent,
    )
    yield Row(
        "the same: the others",
        f"another serves within {_REPLACED_SECONDS:g} s",
        f"longest time without a good answer {max(silences) * 1000:.0f} ms; replaced after {median(replaced):.2f} s, "
        f"at most {max(replaced):.2f}",
        ok=max(silences) <= _REPLACED_SECONDS and max(replaced) <= _REPLACED_SECONDS,
    )


def orphans() -> Iterator[Row]:
    """SIGKILL of the supervisor."""
    service = Service(name="orphans")
    with running(service), Load(Crowd(service.port)) as load:
        workers = [pid for pid in tree_of(service.pid) if pid != service.pid]
        sleep(1)
        at = monotonic()
        service.signal(signal.SIGKILL)
        service.process.wait()
        gone = _seconds_until_gone(workers, at)
        free = _seconds_until_free(service.port, at)
        load.stop()
        for pid in workers:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
    yield Row(
        "SIGKILL of the supervisor",
        f"no worker left after {_ORPHAN_SECONDS:g} s, and the port is free",
        f"{len(workers)} workers gone after {gone:.2f} s, port free after {free:.2f} s",
        ok=len(workers) == service.workers_wanted and max(gone, free) <= _ORPHAN_SECONDS,
    )


def _seconds_until_gone(pids: list[int], since: float) -> float:
    while any(map(is_alive, pids)) and monotonic() - since < 5 * _ORPHAN_SECONDS:
        sleep(0.005)
    return float("inf") if any(map(is_alive, pids)) else monotonic() - since


def _seconds_until_free(port: int, since: float) -> float:
    while monotonic() - since < 5 * _ORPHAN_SECONDS:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what ended just now does not count
            try:
                listener.bind((HOST, port))
                listener.listen()
            except OSError:
                sleep(0.005)
            else:
                return monotonic() - since
    return float("inf")

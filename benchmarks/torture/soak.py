"""Ten minutes of everything at once: what becomes of memory and descriptors."""

import json
import signal
from collections.abc import Iterator
from functools import partial
from time import sleep

from benchmarks.torture.clients import Crowd, Load
from benchmarks.torture.exchanges import Ask
from benchmarks.torture.report import Row
from benchmarks.torture.service import Service, descriptors, pss_mb, running

_MINUTES = 10
_SETTLED_SECONDS = 5.0
_GROWTH = 0.02
_PAUSE_SECONDS = 0.01
_ROWS = json.dumps({"instances": [[1.5, 2.25, -0.75, 4.0]] * 100}).encode()
_ASKS = (
    Ask(),
    Ask(path="/predict/batch", body=_ROWS, replies=()),
    Ask(),
    Ask(body=b'{"features":[1.5,2.25]}', status=400, replies=()),
    Ask(),
    Ask(body=b'{"features":["1.5",2,3,4]}', status=422, replies=()),
    Ask(path="/nothing", status=404, replies=()),
)


def soak() -> Iterator[Row]:
    """Kept and new connections, batches, bad requests, and SIGHUP after every minute but the last."""
    with running(Service(name="soak")) as service:
        with Load(Crowd(service.port, asks=_ASKS)) as load:  # for what a process opens only with its first connections
            sleep(1)
            load.stop()
        sleep(_SETTLED_SECONDS)
        idle = _descriptors(service)
        with Load(Crowd(service.port, asks=_ASKS, pause_seconds=_PAUSE_SECONDS)) as load:
            memory = []
            for minute in range(_MINUTES):
                sleep(60)
                memory.append(_memory(service))
                if minute < _MINUTES - 1:
                    old = service.worker_pids()
                    service.signal(signal.SIGHUP)
                    service.until(partial(service.is_whole_without, old), "new workers in the place of the old")
            journal = load.stop()
        sleep(_SETTLED_SECONDS)
        left = _descriptors(service) - idle
    growth = memory[-1] / memory[0] - 1
    yield Row(
        f"{_MINUTES} minutes of all at once, SIGHUP each minute",
        f"memory growth under {_GROWTH:.0%}, no descriptor left; 0 lost, 0 errors",
        f"PSS of all processes {memory[0]:.1f} MB after a minute, {memory[-1]:.1f} MB at the end: {growth:+.1%}; "
        f"{left:+d} descriptors; of {len(journal):,} requests {len(journal.lost)} lost, {journal.unsent} not taken, "
        f"{journal.wrong} with a wrong reply",
        ok=growth < _GROWTH and left <= 0 and not len(journal.lost) and not journal.unsent and not journal.wrong,
    )


def _processes(service: Service) -> list[int]:
    return [service.pid, *service.worker_pids()]


def _memory(service: Service) -> float:
    return sum(map(pss_mb, _processes(service)))


def _descriptors(service: Service) -> int:
    return sum(map(descriptors, _processes(service)))

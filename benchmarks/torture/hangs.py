"""Workers that are there and do not answer: stopped, or with an event loop that a model blocks."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic, sleep

from benchmarks.torture.clients import Crowd, Load
from benchmarks.torture.exchanges import HOST, Ask, Journal
from benchmarks.torture.probes import Probes
from benchmarks.torture.report import Row
from benchmarks.torture.service import SLOW, Service, is_alive, running
from benchmarks.torture.slow_model import BLOCKING

_NOTICED_SECONDS = 5.0
_SILENCE_SECONDS = 0.5
"""A client of the other worker that waits for so long has noticed something."""
_WATCHED_SECONDS = 8.0
_PAUSE_SECONDS = 0.01
"""Of the clients, so that the new worker finds processor time to start."""
_BLOCK = Ask(body=b'{"features":[%d,0,0,0]}' % BLOCKING)


def stopped() -> Iterator[Row]:
    """SIGSTOP of a worker."""

    def stop(service: Service) -> None:
        os.kill(service.workers()[0].pid, signal.SIGSTOP)

    yield _observed("SIGSTOP of a worker", stop)


def blocked() -> Iterator[Row]:
    """A prediction that blocks the event loop for a minute."""
    with socket.socket() as connection:

        def block(service: Service) -> None:
            connection.connect((HOST, service.port))
            connection.sendall(_BLOCK.wire(keeps=True))

        yield _observed("an event loop that blocks", block)


def _observed(fault: str, strike: Callable[[Service], None]) -> Row:
    with running(Service(SLOW, name="hangs")) as service, Load(_crowd(service)) as load:
        sleep(1)
        before = service.worker_pids()
        with Probes(service.admin_port, "/livez") as probes:
            at = monotonic()
            strike(service)
            service.until(lambda: not all(map(is_alive, before)), "the worker that hangs to be ended")
            noticed = monotonic() - at
            gone = {pid for pid in before if not is_alive(pid)}
            service.until(partial(service.is_whole_without, gone), "another worker in its place")
            replaced = monotonic() - at
            sleep(max(0.0, _WATCHED_SECONDS - replaced))
        still = len(before & service.worker_pids())
        journal = load.stop()
    silence, clients = _silence_of_the_others(journal, at, at + noticed)
    after = journal.begun(at + replaced)
    return Row(
        fault,
        f"noticed within {_NOTICED_SECONDS:g} s and replaced; the others answer all the while",
        f"noticed after {noticed:.1f} s, replaced after {replaced:.1f}; the {clients} clients that kept a connection "
        f"to the other worker waited for at most {silence * 1000:.0f} ms; {len(journal.lost)} lost in all, "
        f"{len(after.lost)} of them afterwards; slowest answer of the admin listener {probes.slowest * 1000:.0f} ms",
        ok=noticed <= _NOTICED_SECONDS
        and still == len(before) - 1
        and clients > 0
        and silence <= _SILENCE_SECONDS
        and not len(after.lost)
        and probes.slowest < _SILENCE_SECONDS,
    )


def _crowd(service: Service) -> Crowd:
    return Crowd(service.port, pause_seconds=_PAUSE_SECONDS)


def _silence_of_the_others(journal: Journal, start: float, end: float) -> tuple[float, int]:
    """The longest wait of a keeping client of the other worker, and how many there are: those that lost nothing."""
    silences = []
    for client in range(Crowd(0).kept):
        own = journal.where(journal.client == client)
        if not len(own.over(start, end + 1).lost):
            silences.append(own.longest_silence(start, end))
    return max(silences, default=float("inf")), len(silences)

"""What the service needs from the system and does not get: a reader of its log, room on the disk, descriptors."""

import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from benchmarks.torture.clients import Crowd, Load
from benchmarks.torture.exchanges import HOST, Ask, Journal
from benchmarks.torture.report import Row
from benchmarks.torture.service import Service, cpu_seconds, descriptors, running

_LOAD_SECONDS = 2.0
_SERVING_ON = "serving goes on"
_LOUD = {"WEIGHBRIDGE_LOG_REQUESTS": "all"}
_ASKS = (Ask(), Ask(body=b'{"features":[1]}', status=400, replies=()), Ask(body=b"[", status=422, replies=()))
"""Of which two are errors, so that there is something to log."""
_SMALL_DISK = "size=256k"
_SOCKETS = 400
_FEW_DESCRIPTORS = 192
_SPARE_DESCRIPTORS = 10
_RECOVERED_SECONDS = 2.0
_SETTLED_SECONDS = 1.0
"""In which the service sees that the last connections are closed."""


def standard_output_closed() -> Iterator[Row]:
    """The reader of the log goes away."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as output:
        service = Service(name="closed", output=output, variables=_LOUD)
    with running(service), Load(Crowd(service.port, asks=_ASKS)) as load:
        os.close(reader)
        code, journal = _serves_on(service, load)
    yield _row("standard output closed", journal, code)


def _serves_on(service: Service, load: Load) -> tuple[int, Journal]:
    """Load, a roll of the workers, more load, a normal end: the exit code, and what the clients saw."""
    sleep(_LOAD_SECONDS)
    old = service.worker_pids()
    service.signal(signal.SIGHUP)
    service.until(partial(service.is_whole_without, old), "new workers in the place of the old")
    sleep(_LOAD_SECONDS)
    journal = load.stop()
    service.signal(signal.SIGTERM)
    return service.process.wait(), journal


def _row(fault: str, journal: Journal, code: int, remark: str = "", *, ok: bool = True) -> Row:
    return Row(
        fault,
        _SERVING_ON,
        f"of {len(journal):,} requests, all logged, {len(journal.lost)} lost, {journal.unsent} not taken, "
        f"{journal.wrong} with a wrong reply; SIGHUP works, then SIGTERM with exit code {code}{remark}",
        ok=ok and not code and not len(journal.lost) and not journal.unsent and not journal.wrong,
    )


def disk_full() -> Iterator[Row]:
    """The log is written to a file system without room; then there is room again."""
    with _small_disk() as folder:
        full = folder is None
        log = Path("/dev/full") if folder is None else folder / "log"
        with log.open("ab") as output:
            service = Service(name="disk", output=output, variables=_LOUD)
        with running(service), Load(Crowd(service.port, asks=_ASKS)) as load:
            if folder is not None:
                sleep(_LOAD_SECONDS)
                full = os.statvfs(folder).f_bavail == 0
                log.open("wb").close()
                sleep(0.2)
                grown = log.stat().st_size > 0
            code, journal = _serves_on(service, load)
    yield _row(
        "disk full" if folder else "disk full (/dev/full)",
        journal,
        code,
        "" if folder is None else f"; the log {'goes on' if grown else 'stays silent'} once there is room",
        ok=full and (folder is None or grown),
    )


@contextmanager
def _small_disk() -> Iterator[Path | None]:
    """A file system of its own with little room, where one may be mounted."""
    with TemporaryDirectory() as folder:
        mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", _SMALL_DISK, "tmpfs", folder], capture_output=True, check=False
        ).returncode
        try:
            yield Path(folder) if mounted else None
        finally:
            if mounted:
                subprocess.run(["umount", folder], check=True)


def few_descriptors() -> Iterator[Row]:
    """More connections than a low limit on open files allows, from the start."""
    limit = ("prlimit", f"--nofile={_FEW_DESCRIPTORS}")
    with running(Service(name="few-descriptors", prefix=limit)) as service:
        yield _crowded("more connections than the limit on open files allows", service, squeezed=False)


def no_descriptors() -> Iterator[Row]:
    """The limit on open files falls to hardly more than what is in use, while it serves."""
    with running(Service(name="no-descriptors")) as service:
        yield _crowded("file descriptors exhausted while it serves", service, squeezed=True)


def _crowded(fault: str, service: Service, *, squeezed: bool) -> Row:
    """Hold more connections than there can be, for a while, beside the usual load."""
    with Load(Crowd(service.port)) as load:  # for what a process opens only with its first connections
        sleep(1)
        load.stop()
    sleep(_SETTLED_SECONDS)
    pids = [service.pid, *service.worker_pids()]
    before = {pid: descriptors(pid) for pid in pids}
    with Load(Crowd(service.port)) as load:
        sleep(1)
        crowded = monotonic()
        with _squeezed(pids if squeezed else []), ExitStack() as stack:
            for _ in range(_SOCKETS):
                stack.enter_context(socket.create_connection((HOST, service.port)))
            used, since = cpu_seconds(service.pid), monotonic()
            sleep(_LOAD_SECONDS)
            share = (cpu_seconds(service.pid) - used) / (monotonic() - since)
        free = monotonic()
        sleep(_RECOVERED_SECONDS)
        journal = load.stop()
    same = set(pids) == {service.pid, *service.worker_pids()}
    sleep(_SETTLED_SECONDS)
    left = sum(descriptors(pid) - count for pid, count in before.items()) if same else 0
    keeping = journal.client < Crowd(0).kept
    silence = journal.where(keeping).longest_silence(crowded, free)
    recovered = journal.where(~keeping & journal.good & (journal.ended > free))
    seconds = float(recovered.ended.min()) - free if len(recovered) else float("inf")
    return Row(
        fault,
        f"{_SERVING_ON}, and all is well afterwards",
        f"beside {_SOCKETS} connections, of {len(journal):,} requests {len(journal.lost)} lost, {journal.unsent} not "
        f"taken, {journal.wrong} with an error; clients that kept a connection waited at most {silence * 1000:.0f} ms, "
        f"others were served {seconds * 1000:.0f} ms after there was room; the supervisor used {share:.0%} of a core; "
        f"{'no worker' if same else 'a worker'} was replaced, {left:+d} descriptors",
        ok=same
        and silence < 1
        and seconds <= _RECOVERED_SECONDS
        and left <= 0
        and not len(journal.lost)
        and not journal.unsent
        and not journal.wrong,
    )


@contextmanager
def _squeezed(pids: list[int]) -> Iterator[None]:
    """Leave the processes only a few descriptors more than they use."""
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    for pid, (_, hard) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + _SPARE_DESCRIPTORS, hard))
    try:
        yield
    finally:
        for pid, limit in limits.items():
            with suppress(ProcessLookupError):  # it may have ended meanwhile, which the row will say
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)

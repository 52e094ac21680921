"""The supervisor with workers that only speak its language, and so start at once."""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from structlog.typing import FilteringBoundLogger
from typing_extensions import override

from tests.starving import open_files
from tests.unit.log import Log
from tests.unit.server.fake_repository import FakeOpenings, FakeRepository
from tests.waiting import DEADLINE, until
from weighbridge.server.catalogue import Catalogue
from weighbridge.server.channel import MOST_DESCRIPTORS
from weighbridge.server.scoreboard import Scoreboard
from weighbridge.server.supervisor import supervisor as module
from weighbridge.server.supervisor.listener import listen
from weighbridge.server.supervisor.process import WorkerProcess
from weighbridge.server.supervisor.rollouts import CannotStart, Rollouts
from weighbridge.server.supervisor.supervisor import Supervisor
from weighbridge.settings import InvalidSettings, Settings

SPEAKS = """
import select, socket, sys
from weighbridge.server.channel import Channel, Word
channel = Channel(socket.socket(fileno=int(sys.argv[1])))
def hear():
    select.select([channel], [], [])
    return channel.receive()
"""
OBEYS = SPEAKS + "channel.send(Word.READY)\nwhile hear()[0] not in (Word.CLOSE, Word.RETIRE): pass"
NEVER_READY = SPEAKS + "while hear(): pass"
NEVER_ENDS = SPEAKS + "channel.send(Word.READY)\nwhile True: hear()"
FAILS = "raise SystemExit(1)"
# Workers that differ: each knows from a file, whose path comes first, how many there were before it.
NUMBERED = """
import os
from pathlib import Path
with open(PATH, "a+") as workers:
    workers.seek(0)
    before = workers.read().split()
    print(os.getpid(), file=workers)
number = len(before)
"""


def numbered(path: Path, program: str) -> str:
    return f"PATH = {str(path)!r}{NUMBERED}{program}"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(listen("127.0.0.1", 0)) as listener:
        yield listener


@dataclass
class Supervising:
    """A supervisor, in a process that has nothing else to do."""

    logger: FilteringBoundLogger
    listener: socket.socket

    def of(self, program: str, reread: Callable[[], Settings] = Settings, **settings: Any) -> Supervisor:
        """A supervisor whose workers run a program."""
        patient = Settings(**{"hang_timeout": DEADLINE, **settings})
        command = [sys.executable, "-c", program]
        rollouts = Rollouts(FakeRepository(), FakeOpenings(), patient, self.logger)
        return Supervisor(command, patient, self.listener, self.logger, rollouts, reread, inherited=False)

    def run(self, program: str, *signals: int, **settings: Any) -> None:
        """Run one that gets these signals as soon as it is ready."""

        async def main() -> None:
            def ready() -> None:
                for number in signals:
                    signal.raise_signal(number)

            async with asyncio.timeout(DEADLINE):
                await self.of(program, **settings).run(ready)

        asyncio.run(main())


@pytest.fixture
def supervising(logger: FilteringBoundLogger, listener: socket.socket) -> Supervising:
    return Supervising(logger, listener)


def test_a_service_whose_worker_does_not_come_up_cannot_start(supervising: Supervising) -> None:
    with pytest.raises(CannotStart, match=r"^starting failed: a worker ended with code 1; "):
        supervising.run(FAILS)


def test_a_service_that_is_stopped_while_it_starts_is_never_ready(supervising: Supervising) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
        async with asyncio.timeout(DEADLINE):
            await supervising.of(NEVER_READY).run(lambda: pytest.fail("it was said to be ready"))

    asyncio.run(main())


def test_a_service_that_is_stopped_while_its_workers_start_is_never_ready(supervising: Supervising, log: Log) -> None:
    async def main() -> None:
        supervisor = supervising.of(NEVER_READY)
        running = asyncio.ensure_future(supervisor.run(lambda: pytest.fail("it was said to be ready")))
        async with asyncio.timeout(DEADLINE):
            while not log.of("worker_started"):
                await asyncio.wait({running}, timeout=0.01)
            signal.raise_signal(signal.SIGTERM)
            await running

    asyncio.run(main())


def test_workers_are_told_to_end(supervising: Supervising, log: Log) -> None:
    supervising.run(OBEYS, signal.SIGTERM, workers=2)

    assert not log.of("worker_died")


def test_a_worker_that_does_not_end_in_time_is_killed(supervising: Supervising, log: Log) -> None:
    supervising.run(NEVER_ENDS, signal.SIGTERM, drain_timeout=0.1)

    assert not log.of("worker_died")


def test_a_second_signal_waits_for_nothing(supervising: Supervising, log: Log) -> None:
    supervising.run(NEVER_ENDS, signal.SIGTERM, signal.SIGINT, drain_delay=1000, drain_timeout=1000)

    assert not log.of("worker_died")


def test_a_worker_that_does_not_retire_in_time_is_killed(supervising: Supervising, log: Log) -> None:
    async def main() -> None:
        supervisor = supervising.of(NEVER_ENDS, lambda: Settings(drain_timeout=0.1, hang_timeout=DEADLINE))
        running = asyncio.ensure_future(supervisor.run(lambda: signal.raise_signal(signal.SIGHUP)))
        async with asyncio.timeout(DEADLINE):
            while not log.of("reloaded"):
                await asyncio.wait({running}, timeout=0.01)
            signal.raise_signal(signal.SIGTERM)
            await running

    asyncio.run(main())

    assert len(log.of("worker_started")) == 2
    assert not log.of("worker_died")


def test_a_reload_with_wrong_settings_is_refused(supervising: Supervising, log: Log) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        def reread() -> Settings:
            asked.set()
            raise InvalidSettings("expected other settings")

        running = asyncio.ensure_future(supervising.of(OBEYS, reread).run(lambda: signal.raise_signal(signal.SIGHUP)))
        async with asyncio.timeout(DEADLINE):
            await asked.wait()
            signal.raise_signal(signal.SIGTERM)
            await running

    asyncio.run(main())

    until(lambda: log.of("reload_refused"))
    assert log.of("reload_refused")[0]["reason"] == "expected other settings"


def test_a_signal_to_reload_is_ignored_while_the_service_ends(supervising: Supervising, log: Log) -> None:
    supervising.run(OBEYS, signal.SIGTERM, signal.SIGHUP)

    assert len(log.of("worker_started")) == 1


def reload_then_stop(supervising: Supervising, log: Log, program: str, done: str, count: int, **settings: Any) -> None:
    """Reload as soon as the service is ready, and stop it once the log has so many lines of one kind."""

    async def main() -> None:
        supervisor = supervising.of(program, lambda: Settings(hang_timeout=DEADLINE, **settings), **settings)
        running = asyncio.ensure_future(supervisor.run(lambda: signal.raise_signal(signal.SIGHUP)))
        async with asyncio.timeout(DEADLINE):
            while len(log.of(done)) < count:
                await asyncio.wait({running}, timeout=0.01)
            signal.raise_signal(signal.SIGTERM)
            await running

    asyncio.run(main())


def test_a_worker_that_is_starting_when_the_service_is_stopped_is_not_waited_for(
    supervising: Supervising, log: Log, tmp_path: Path
) -> None:
    only_the_first = numbered(tmp_path / "workers", f"exec(({OBEYS!r}, {NEVER_READY!r})[number])")

    reload_then_stop(supervising, log, only_the_first, "worker_started", 2)

    assert not log.of("worker_died")


def test_once_one_worker_has_the_new_settings_the_others_are_tried_again_until_they_do(
    supervising: Supervising, log: Log, tmp_path: Path
) -> None:
    fourth_fails = numbered(tmp_path / "workers", f"exec({FAILS!r} if number == 3 else {OBEYS!r})")

    reload_then_stop(supervising, log, fourth_fails, "reloaded", 1, workers=2)

    assert len(log.of("worker_started")) == 5
    assert not log.of("reload_refused")


def test_a_worker_that_dies_while_it_is_being_replaced_is_replaced_once(
    supervising: Supervising, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_DELAY", 1000.0)
    dies = SPEAKS + "channel.send(Word.READY)"
    when_the_first_is_buried = "while Path('/proc', before[0]).exists(): pass\n"
    dying = numbered(tmp_path / "workers", f"exec({dies!r} if number == 0 else {when_the_first_is_buried + OBEYS!r})")

    reload_then_stop(supervising, log, dying, "reloaded", 1)

    assert len(log.of("worker_started")) == 2
    assert len(log.of("worker_died")) == 1


def test_a_worker_that_never_came_to_read_its_first_message_leaves_nothing_behind(
    supervising: Supervising, log: Log
) -> None:
    descriptors = open_files()
    with pytest.raises(CannotStart):
        supervising.run(FAILS)

    assert open_files() == descriptors
    assert len(log.of("worker_started")) == 1


def failing(monkeypatch: pytest.MonkeyPatch, *attempts: int) -> None:
    """Of the attempts to start a worker, let some fail for want of descriptors; they are numbered from 0."""
    started = count()

    def start(*arguments: Any, **options: Any) -> WorkerProcess:
        if next(started) in attempts:
            raise OSError(errno.EMFILE, "Too many open files")
        return WorkerProcess(*arguments, **options)

    monkeypatch.setattr(module, "WorkerProcess", start)


def test_a_service_that_cannot_start_a_process_says_why(
    supervising: Supervising, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 1)

    with pytest.raises(CannotStart, match=r"^could not start 2 workers: Too many open files$"):
        supervising.run(OBEYS, workers=2)


def test_a_worker_that_cannot_be_started_again_is_tried_later(
    supervising: Supervising, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 1)
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.01)
    first_dies = numbered(
        tmp_path / "workers", f"exec({SPEAKS + 'channel.send(Word.READY)'!r} if not number else {OBEYS!r})"
    )

    async def main() -> None:
        running = asyncio.ensure_future(supervising.of(first_dies).run(lambda: None))
        async with asyncio.timeout(DEADLINE):
            while len(log.of("worker_started")) < 2:
                await asyncio.wait({running}, timeout=0.01)
            signal.raise_signal(signal.SIGTERM)
            await running

    asyncio.run(main())

    assert [line["reason"] for line in log.of("worker_died")] == [
        "ended with code 0",
        "could not be started: Too many open files",
    ]


def test_a_reload_for_which_no_process_can_be_started_is_refused(
    supervising: Supervising, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 1)

    reload_then_stop(supervising, log, OBEYS, "reload_refused", 1)

    assert len(log.of("worker_started")) == 1


def test_a_worker_that_cannot_be_watched_is_not_left_alone(
    supervising: Supervising, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def pidfd_open(pid: int) -> int:
        started.append(Path("/proc", str(pid)))
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    with pytest.raises(CannotStart):
        supervising.run(OBEYS)

    assert [process.exists() for process in started] == [False]


def test_memory_that_cannot_be_had_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def ftruncate(_descriptor: int, _size: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    descriptors = open_files()
    monkeypatch.setattr(os, "ftruncate", ftruncate)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        Scoreboard.create()

    assert open_files() == descriptors


def test_a_worker_takes_as_many_as_its_channel_holds_while_it_reads_nothing() -> None:
    async def main() -> None:
        worker = WorkerProcess([sys.executable, "-c", "input()"], Settings(), Catalogue(), slot=0, most_connections=1)
        with socket.socket() as connection:
            batch = [connection.fileno()] * 2 * MOST_DESCRIPTORS
            while (taken := worker.take(batch)) == len(batch):
                pass
        held = worker.connections
        worker.kill("the test is over")
        worker.ended()

        assert taken in {0, MOST_DESCRIPTORS}
        assert held % MOST_DESCRIPTORS == 0

    asyncio.run(main())


class Reluctant(WorkerProcess):
    """A worker that cannot be reached at first."""

    taking: ClassVar[asyncio.Event]

    @override
    def take(self, connections: Sequence[int], *, kept: bool = False) -> int:
        if not self.taking.is_set():
            self.taking.set()
            return 0
        return super().take(connections, kept=kept)


def test_a_connection_waits_until_the_worker_can_be_reached(
    supervising: Supervising, listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = tmp_path / "received"
    tells = f"from pathlib import Path\nhear(); Path({str(received)!r}).touch()\nhear()"
    monkeypatch.setattr(module, "WorkerProcess", Reluctant)
    monkeypatch.setattr(Reluctant, "taking", asyncio.Event(), raising=False)

    async def main() -> None:
        with socket.create_connection(listener.getsockname(), timeout=DEADLINE):
            supervisor = supervising.of(SPEAKS + "channel.send(Word.READY)\n" + tells)
            running = asyncio.ensure_future(supervisor.run(lambda: None))
            async with asyncio.timeout(DEADLINE):
                await Reluctant.taking.wait()
                await asyncio.to_thread(until, received.exists)
                signal.raise_signal(signal.SIGTERM)
                await running

    asyncio.run(main())

    assert received.exists()


def test_a_connection_that_nobody_can_take_ends_with_the_service(
    supervising: Supervising, listener: socket.socket, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_DELAY", 1000.0)

    async def main() -> None:
        with socket.create_connection(listener.getsockname(), timeout=DEADLINE) as client:
            supervisor = supervising.of(SPEAKS + "channel.send(Word.READY)\nhear()")
            running = asyncio.ensure_future(supervisor.run(lambda: None))
            async with asyncio.timeout(DEADLINE):
                while not log.of("worker_died"):
                    await asyncio.wait({running}, timeout=0.001)
                with socket.create_connection(listener.getsockname(), timeout=DEADLINE) as late:
                    signal.raise_signal(signal.SIGTERM)
                    await running

                    assert client.recv(1) == late.recv(1) == b""

    asyncio.run(main())


def test_a_worker_that_has_died_is_not_replaced_any_more_once_the_service_ends(
    supervising: Supervising, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.1)

    async def main() -> None:
        supervisor = supervising.of(SPEAKS + "channel.send(Word.READY)", drain_delay=0.3)
        running = asyncio.ensure_future(supervisor.run(lambda: None))
        async with asyncio.timeout(DEADLINE):
            while not log.of("worker_died"):
                await asyncio.wait({running}, timeout=0.001)
            signal.raise_signal(signal.SIGTERM)
            await running

    asyncio.run(main())

    assert len(log.of("worker_started")) == 1

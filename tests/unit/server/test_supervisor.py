"""The supervisor with workers that only speak its language, and so start at once."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.typing import FilteringBoundLogger

from tests.unit.log import Log
from tests.waiting import DEADLINE, until
from weighbridge.adapters.logs import start_logging
from weighbridge.server.listener import listen
from weighbridge.server.supervisor import CannotStart, Supervisor
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


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(listen("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def logger(log: Log) -> Iterator[FilteringBoundLogger]:
    with contextmanager(start_logging)(log.descriptor, level="info", log_format="json") as logger:
        yield logger


@dataclass
class Supervising:
    """A supervisor, in a process that has nothing else to do."""

    logger: FilteringBoundLogger
    listener: socket.socket

    def of(self, program: str, reread: Callable[[], Settings] = Settings, **settings: Any) -> Supervisor:
        """A supervisor whose workers run a program."""
        patient = Settings(**{"hang_timeout": DEADLINE, **settings})
        command = [sys.executable, "-c", program]
        return Supervisor(command, patient, self.listener, self.logger, reread, inherited=False)

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
    with pytest.raises(CannotStart, match=r"^expected every worker to come up, got one that ended with code 1"):
        supervising.run(FAILS)


def test_a_service_that_is_stopped_while_it_starts_is_never_ready(supervising: Supervising) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
        async with asyncio.timeout(DEADLINE):
            await supervising.of(NEVER_READY).run(lambda: pytest.fail("it was said to be ready"))

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

"""A connection that has had a request is known as such wherever it goes."""

import asyncio
import socket

import pytest
from structlog.typing import FilteringBoundLogger

from tests.unit.server.actors import stage
from tests.waiting import DEADLINE
from weighbridge.server.channel import KEPT, Word
from weighbridge.server.supervisor import supervisor


def test_a_new_connection_has_had_no_request(monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger) -> None:
    async def main() -> None:
        async with stage(monkeypatch, logger, "1", workers=1) as on:
            with socket.create_connection(on.address, timeout=DEADLINE):
                await on.until(lambda: on.actors[0].connections == 1)
            assert on.actors[0].kept == 0

    asyncio.run(main())


def test_one_that_was_handed_back_is_kept_even_if_the_next_worker_dies_before_it_receives_it(
    monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger
) -> None:
    async def main() -> None:
        async with stage(monkeypatch, logger, "1", workers=2) as on:
            monkeypatch.setattr(supervisor, "_FIRST_DELAY", 1000.0)
            one, other = on.actors
            other.stand_still()
            with socket.socket() as connection:
                other.send(Word.CONNECTIONS, KEPT, [connection.fileno()] * 2)
            await on.until(lambda: [worker.connections for worker in on.supervisor.workers()] == [1, 1])
            await on.until(lambda: one.kept == 1)
            other.kill()
            await on.until(lambda: one.kept == 2)

    asyncio.run(main())

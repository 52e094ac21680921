"""A supervisor that may open hardly anything more."""

import asyncio
import socket
from contextlib import ExitStack

import pytest
from structlog.typing import FilteringBoundLogger

from tests.starving import room_for
from tests.unit.server.actors import Stage, stage
from tests.waiting import DEADLINE
from weighbridge.server.channel import Channel, Message, NoRoom, Word
from weighbridge.server.supervisor import supervisor


async def handed(on: Stage, connections: int) -> None:
    """Return when so many have been handed to workers."""
    await on.until(lambda: sum(worker.connections for worker in on.supervisor.workers()) == connections)


def test_a_connection_that_a_worker_hands_back_waits_until_there_is_room(
    monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger
) -> None:
    receive, in_vain = Channel.receive, list[Channel]()

    def receive_noting(self: Channel) -> Message:
        try:
            return receive(self)
        except NoRoom:
            in_vain.append(self)
            raise

    async def main() -> None:
        async with stage(monkeypatch, logger, "1", workers=2) as on:
            monkeypatch.setattr(Channel, "receive", receive_noting)
            with socket.socket() as connection, room_for(0):
                on.actors[0].send(Word.CONNECTIONS, "", [connection.fileno()])
                await on.until(lambda: in_vain)
                for _ in range(10):
                    await asyncio.sleep(0)
                assert len(in_vain) == 1
            await on.until(lambda: sum(actor.connections for actor in on.actors) == 1)

    asyncio.run(main())


def test_what_a_dead_worker_never_received_is_taken_back_by_and_by(
    monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger
) -> None:
    async def main() -> None:
        async with stage(monkeypatch, logger, "1", workers=2) as on:
            monkeypatch.setattr(supervisor, "_FIRST_DELAY", 1000.0)
            on.actors[0].stand_still()
            with ExitStack() as clients:
                for number in range(6):
                    clients.enter_context(socket.create_connection(on.address, timeout=DEADLINE))
                    await handed(on, number + 1)
                with room_for(1):
                    on.actors[0].kill()
                    await on.until(lambda: on.actors[1].connections == 6)

    asyncio.run(main())

"""A worker without its supervisor, or with a connection that is gone."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from weighbridge.server.channel import Channel
from weighbridge.server.gate import Gate
from weighbridge.server.scoreboard import Scoreboard
from weighbridge.server.worker import DataPlane, Worker
from weighbridge.settings import Settings


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = Channel.pair()
    yield one, other
    one.close()
    other.close()


def test_a_worker_whose_supervisor_is_gone_ends(ends: tuple[Channel, Channel]) -> None:
    async def main() -> None:
        supervisors, ours = ends
        worker = Worker(lambda *_: FastAPI(), ours, Settings(), Scoreboard.create())
        supervisors.close()
        worker.heed()

        assert worker.plane.should_exit

    asyncio.run(main())


def test_a_connection_that_is_gone_before_it_is_adopted_is_counted_as_closed() -> None:
    async def main() -> None:
        gate = Gate(Settings())
        plane = DataPlane(FastAPI, Settings(), gate, lambda: None)
        plane.config.load()
        gone = socket.socket()
        gone.close()
        plane.adopt([gone])
        await asyncio.wait(plane._adopting)

        assert (plane.connections, gate.vitals.closed) == (0, 1)

    asyncio.run(main())


def test_a_worker_that_ends_waits_for_the_connections_that_it_is_adopting() -> None:
    async def main() -> None:
        gate = Gate(Settings())
        plane = DataPlane(FastAPI, Settings(), gate, lambda: None)
        plane.config.load()
        plane.lifespan = plane.config.lifespan_class(plane.config)
        await plane.startup(sockets=[])
        gone = socket.socket()
        gone.close()
        plane.adopt([gone])
        await plane.shutdown()

        assert (plane.connections, gate.vitals.closed) == (0, 1)

    asyncio.run(main())

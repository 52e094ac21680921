"""The one process, for debugging and for tiny machines: it accepts and answers, and nothing replaces it."""

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from starlette.types import ASGIApp

from weighbridge.server.acceptor import Acceptor
from weighbridge.server.gate import Gate
from weighbridge.server.listener import most_connections
from weighbridge.server.process import TICK_SECONDS
from weighbridge.server.worker import DataPlane, tune_memory
from weighbridge.settings import Settings


class Alone:
    """Serves what `factory` makes on a listener; `on_ready` is called once, when requests are answered."""

    def __init__(
        self, factory: Callable[[], ASGIApp], settings: Settings, listener: socket.socket, on_ready: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self._plane = DataPlane(factory, settings, Gate(settings), self._started)
        self._acceptor = Acceptor(listener, self._give)
        self._most_connections = most_connections(settings)
        self._at_once = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second one does not wait for requests in hand."""
        tune_memory()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)  # there is nobody to go on while it starts anew
        await self._plane.serve(sockets=[])

    def _started(self) -> None:
        self._tick()
        self._on_ready()

    def _give(self, connection: socket.socket) -> None:
        self._plane.adopt(connection)
        if self._plane.connections >= self._most_connections:
            self._acceptor.stop()

    def _tick(self) -> None:
        asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        if self._plane.connections < self._most_connections:
            self._acceptor.start()

    def _stop(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        else:
            self._at_once.set()
            self._plane.force_exit = self._plane.should_exit = True

    async def _drain(self) -> None:
        if self._plane.started:
            self._plane.drain()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._at_once.wait(), self._settings.drain_delay)
            await self._acceptor.finish()
        self._plane.close()

"""The one process, for debugging and for tiny machines: it accepts and answers, and nothing replaces it."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from starlette.types import ASGIApp

from weighbridge.adapters.exposition import Totals
from weighbridge.adapters.process_metrics import WorkerState, WorkerStatus, process_families
from weighbridge.server.acceptor import Acceptor
from weighbridge.server.control import WorkerReport
from weighbridge.server.gate import Gate
from weighbridge.server.listener import most_connections
from weighbridge.server.process import TICK_SECONDS
from weighbridge.server.systemd import notify, notify_reloading
from weighbridge.server.worker import DataPlane, tune_memory
from weighbridge.settings import Settings


class Alone:
    """Serves what `factory` makes, which counts in `memory`, on a listener."""

    def __init__(
        self,
        factory: Callable[[], ASGIApp],
        memory: bytearray,
        settings: Settings,
        listener: socket.socket,
        *,
        inherited: bool,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._gate = Gate(settings)
        self._plane = DataPlane(factory, settings, self._gate, self._started)
        self._acceptor = Acceptor(listener, self._give, inherited=inherited)
        self._most_connections = most_connections(settings)
        self._began = monotonic()
        self._at_once = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._on_ready: Callable[[], None] = lambda: None

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; a second one does not wait for requests in hand."""
        self._on_ready = on_ready
        tune_memory()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        await self._plane.serve(sockets=[])

    def not_ready(self) -> str | None:
        """Why the service takes no requests; None when it does."""
        if self._draining is not None:
            return "draining"
        return None if self._plane.started else "starting"

    def workers(self) -> list[WorkerReport]:
        """A report on the one process, which is its own worker."""
        age = round(monotonic() - self._began, 3)
        return [WorkerReport(os.getpid(), self._state, age, self._plane.connections, 0, None)]

    def metrics(self) -> bytes:
        """The metrics, in Prometheus' text format."""
        vitals = self._gate.vitals
        status = WorkerStatus(
            0, os.getpid(), self._state, self._plane.connections, vitals.in_flight, vitals.buffered_bytes
        )
        return Totals().exposition([self._memory], process_families([status], {}, self._settings))

    @property
    def _state(self) -> WorkerState:
        if self._draining is not None:
            return WorkerState.RETIRING
        return WorkerState.READY if self._plane.started else WorkerState.STARTING

    def _started(self) -> None:
        self._tick()
        self._on_ready()

    def _reload(self) -> None:
        """There is nobody to go on while it would start anew."""
        notify_reloading()
        notify("READY=1")

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
            notify("STOPPING=1")
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

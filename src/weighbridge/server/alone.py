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
from weighbridge.adapters.system.allocator import tune_memory
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.catalogue import Stopping
from weighbridge.server.edge.gate import Gate
from weighbridge.server.edge.opening import NoModels, Opening
from weighbridge.server.edge.worker import DataPlane
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.process import RunnerProcess
from weighbridge.server.runner.runners import connect
from weighbridge.server.supervisor.acceptor import Acceptor
from weighbridge.server.supervisor.control import WorkerReport
from weighbridge.server.supervisor.listener import most_connections, reserve_descriptors
from weighbridge.server.supervisor.process import TICK_SECONDS
from weighbridge.server.supervisor.rollouts import CannotStart, Rollouts
from weighbridge.server.supervisor.systemd import notify, notify_reloading
from weighbridge.settings import Settings


class Alone:
    """Serves what `factory` makes, which counts in `memory`, on a listener, with the models `rollouts` decides on."""

    def __init__(
        self,
        factory: Callable[[], ASGIApp],
        memory: bytearray,
        settings: Settings,
        listener: socket.socket,
        rollouts: Rollouts,
        *,
        inherited: bool,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._rollouts = rollouts
        self._opening = Opening(NoModels())
        self._gate = Gate(settings)
        self._plane = DataPlane(factory, settings, self._gate, self._started)
        self._acceptor = Acceptor(listener, self._give, inherited=inherited)
        self._most_connections = most_connections(settings)
        self._began = monotonic()
        self._waiting: list[int] = []
        self._at_once = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._on_ready: Callable[[], None] = lambda: None

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; a second one does not wait for requests in hand. Raises CannotStart."""
        self._on_ready = on_ready
        tune_memory()
        reserve_descriptors(self._settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            with suppress(Stopping):
                await self._rollouts.changing.acquire()  # until it has started
                await self._rollouts.start(self)
                await self._serve()
        finally:
            self._rollouts.stop()

    async def _serve(self) -> None:
        try:
            await self._plane.serve(sockets=[])
        except SystemExit as exc:  # the application did not start
            if self._plane.refusal is None:
                raise
            raise CannotStart(self._plane.refusal) from exc

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
        processes = process_families([status], {}, self._settings)
        return Totals().exposition([self._memory], [*processes, *self._rollouts.metrics()])

    async def prepare(self, hosted: Hosted) -> None:
        """Make ready for a version. Raises ModelRefused."""
        seconds = self._settings.load_timeout
        try:
            async with asyncio.timeout(seconds):
                await self._opening.prepare(hosted.name, hosted.placed)
        except TimeoutError as exc:
            path = f"models/{hosted.name}/{hosted.version}"
            raise ModelRefused(f"{path}: it did not open within {seconds:g} s") from exc
        for runner in hosted.ready:
            self.connect(hosted, runner)

    async def commit(self, _hosted: Hosted) -> None:
        """Serve it."""
        self._opening.install()

    def abort(self) -> None:
        """Forget it."""
        self._opening.drop()

    def connect(self, hosted: Hosted, runner: RunnerProcess) -> None:
        """Ask another runner of a version."""
        connect(self._opening.models, hosted, runner)

    def put_out(self, hosted: Hosted) -> None:
        """Take a version out of service."""
        self._opening.models.put_out(hosted.number, hosted.unavailable or "")

    def tell(self) -> None:
        """Let the application know the catalogue, once it has started."""
        self._opening.models.tell(self._rollouts.catalogue.entries)

    @property
    def _state(self) -> WorkerState:
        if self._draining is not None:
            return WorkerState.RETIRING
        return WorkerState.READY if self._plane.started else WorkerState.STARTING

    def _started(self) -> None:
        self._opening = Opening(self._plane.models)
        self._plane.models.supervise(self._rollouts.broken)
        for hosted in self._rollouts.hosted:
            if hosted.unavailable is not None:
                self.put_out(hosted)
            for runner in hosted.ready:
                self.connect(hosted, runner)
        self.tell()
        self._rollouts.changing.release()
        self._tick()
        self._on_ready()

    def _reload(self) -> None:
        """There is nobody to go on while it would start anew."""
        notify_reloading()
        notify("READY=1")

    def _give(self, connections: list[int]) -> None:
        self._waiting += connections
        self._offer()

    def _offer(self) -> None:
        """Adopt what waits, as far as there is room, and accept on if there is more."""
        room = max(0, self._most_connections - self._plane.connections)
        adopted, self._waiting = self._waiting[:room], self._waiting[room:]
        self._plane.adopt(adopted)
        if self._waiting:
            self._acceptor.stop()
        else:
            self._acceptor.start()

    def _tick(self) -> None:
        asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        self._offer()

    def _stop(self) -> None:
        if self._draining is None:
            notify("STOPPING=1")
            self._rollouts.stop()
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
            self._plane.adopt(self._waiting)
        self._plane.close()

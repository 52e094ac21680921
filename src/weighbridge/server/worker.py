"""The data plane: an application behind the gate, which is given its connections one by one; and a process of it."""

import asyncio
import contextlib
import ctypes
import gc
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import uvicorn
import uvloop
from starlette.types import ASGIApp
from typing_extensions import override

from weighbridge.server.channel import Channel, Word
from weighbridge.server.gate import Gate
from weighbridge.server.lane import Lane
from weighbridge.server.listener import tls_context
from weighbridge.server.protocol import GateProtocol
from weighbridge.server.scoreboard import Scoreboard
from weighbridge.settings import Settings

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_M_ARENA_MAX = -8
_LARGE_BLOCK = 128 * 1024
_PR_SET_PDEATHSIG = 1  # of Linux' prctl.h


class Factory(Protocol):
    """Makes the application of a worker."""

    def __call__(self, settings: Settings, memory: memoryview) -> ASGIApp:
        """The application, which counts in `memory`."""
        ...


class DataPlane(uvicorn.Server):
    """uvicorn's server behind the gate, without a listener: whoever accepts connections gives them to `adopt`."""

    def __init__(
        self, factory: Callable[[], ASGIApp], settings: Settings, gate: Gate, on_started: Callable[[], None]
    ) -> None:
        tls = tls_context(settings)
        super().__init__(
            uvicorn.Config(
                factory,
                factory=True,
                http=GateProtocol.bound_to(gate),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ssl_context_factory=None if tls is None else lambda *_: tls,
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
            )
        )
        self._gate = gate
        self._on_started = on_started
        self._handshake_timeout = None if tls is None else settings.header_timeout
        self._adopting: set[asyncio.Task[None]] = set()
        self._adopted = 0

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._gate.start(asyncio.get_running_loop())
        settle_memory()
        self._on_started()

    @property
    def connections(self) -> int:
        """How many it holds."""
        return self._adopted - self._gate.vitals.closed

    def adopt(self, connections: Iterable[socket.socket]) -> None:
        """Serve connections that were accepted elsewhere."""
        for connection in connections:
            self._adopted += 1
            task = asyncio.ensure_future(self._adopt(connection))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)

    async def _adopt(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, connection, ssl=self.config.ssl, ssl_handshake_timeout=self._handshake_timeout
            )
        except OSError:  # it is gone already, or its TLS handshake failed
            self._gate.vitals.closed += 1

    def _protocol(self) -> asyncio.Protocol:
        connect: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return connect(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def drain(self) -> None:
        """Be not ready, serve on, and ask every client to leave."""
        lane: Lane = self.lifespan.state["lane"]
        lane.readiness.draining()
        self._gate.drain()

    def close(self) -> None:
        """Finish what is in hand, and end."""
        self.should_exit = True

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gate.closing = True
        if self._adopting:
            await asyncio.wait(self._adopting)
        await super().shutdown(sockets)

    @override
    async def on_tick(self, counter: int) -> bool:
        self._gate.vitals.in_flight = len(self.server_state.tasks)
        return await super().on_tick(counter)

    @contextlib.contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield  # they are for whoever runs it


def tune_memory() -> None:
    """Have malloc give back what it can: bodies that grow side by side, and threads that read files, leave no holes.

    Large blocks are mapped each by itself; glibc begins so, but moves the threshold up with every one that is freed.
    One arena serves all threads: those that read files would each keep their own. Other libraries have no such call.
    """
    with contextlib.suppress(AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        libc.mallopt(_M_ARENA_MAX, 1)


def settle_memory() -> None:
    """Give back what start-up needed only for itself; what it has built, the collector need not look at again."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Worker:
    """A data plane that is directed by a supervisor, over a channel."""

    def __init__(self, factory: Factory, channel: Channel, settings: Settings, scoreboard: Scoreboard) -> None:
        self._channel = channel
        self._gate = Gate(settings, scoreboard.vitals)
        self.plane = DataPlane(lambda: factory(settings, scoreboard.metrics), settings, self._gate, self._started)

    def run(self) -> None:
        """Serve until the supervisor says otherwise, or is gone."""
        tune_memory()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self.plane.serve(sockets=[]))

    def _started(self) -> None:
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self.heed)
        self._channel.send(Word.READY)

    def heed(self) -> None:
        """Do what the supervisor says; without one, end."""
        try:
            while True:
                self._obey(*self._channel.receive())
        except BlockingIOError:
            return
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self.plane.close()

    def _obey(self, word: Word, number: str, descriptors: list[int]) -> None:
        if word is Word.CONNECTIONS:
            self.plane.adopt([socket.socket(fileno=descriptor) for descriptor in descriptors])
            self._gate.vitals.closed += int(number) - len(descriptors)  # there were no descriptors for the others
        elif word is Word.DRAIN:
            self.plane.drain()
        else:
            if word is Word.RETIRE:
                self._gate.give_back = self._give_back
            self.plane.close()

    def _give_back(self, descriptor: int) -> bool:
        return self._channel.send(Word.CONNECTIONS, "1", [descriptor])


def work(factory: Factory) -> None:
    """Be the worker whose channel is the descriptor that the command line names; its supervisor handles the signals."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # a terminal, or systemd, sends them to all processes
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    _, snapshot, [descriptor] = channel.receive()  # it was sent before this process began
    scoreboard = Scoreboard(descriptor)
    os.close(descriptor)  # the mapping stays
    Worker(factory, channel, Settings.restore(snapshot), scoreboard).run()

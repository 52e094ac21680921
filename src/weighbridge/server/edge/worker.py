"""The data plane: an application behind the gate, which is given its connections one by one; and a process of it."""

import asyncio
import contextlib
import math
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from weighbridge.adapters.runners.terms import Placed
from weighbridge.adapters.system.allocator import settle_memory, tune_memory
from weighbridge.adapters.system.event_loop import new_event_loop
from weighbridge.adapters.system.lending import borrowed
from weighbridge.adapters.system.priority import wake_at_once
from weighbridge.adapters.system.processes import end_with, leave_signals_to_parent
from weighbridge.adapters.system.sockets import AT_ONCE
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.catalogue import Catalogue
from weighbridge.server.channel import KEPT, Channel, NoRoom, Word
from weighbridge.server.edge.bare import BareAnswers
from weighbridge.server.edge.connection import Connection
from weighbridge.server.edge.gate import Gate
from weighbridge.server.edge.lane import Lane
from weighbridge.server.edge.opening import Models, NoModels, Opening
from weighbridge.server.edge.shared import Shared
from weighbridge.server.scoreboard import Scoreboard
from weighbridge.server.supervisor.listener import reserve_descriptors, tls_context
from weighbridge.settings import Settings

_LONGEST_REASON = 4096  # characters
_PAUSE_SECONDS = 0.05
_ENDS = 2  # of a runner: a socket, and the board


class Factory(Protocol):
    """Makes the application of a worker."""

    def __call__(
        self, settings: Settings, memory: memoryview, live: Mapping[str, Placed], opened: Callable[[], None]
    ) -> ASGIApp:
        """The application, which counts in `memory`, and serves the versions that are `live` by their models' names.

        Its lifespan calls `opened` after each of them, and raises ModelRefused when one cannot be served.
        """
        ...


class _Application:
    """An application whose start may be refused: that is no fault, and `refused` is told of it."""

    def __init__(self, app: ASGIApp, refused: Callable[[str], None]) -> None:
        self._app = app
        self._refused = refused

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request as the application does."""
        if scope["type"] == "lifespan":
            return self._live(scope, receive, send)
        return self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        failure: list[Message] = []

        async def send_on(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":  # with a traceback, which is written unless it is refused
                failure.append(message)
            else:
                await send(message)

        try:
            await self._app(scope, receive, send_on)
        except ModelRefused as exc:
            self._refused(str(exc))
            failure = [{"type": "lifespan.startup.failed"}]
        finally:
            for message in failure:
                await send(message)


class DataPlane(uvicorn.Server):
    """uvicorn's server behind the gate, without a listener: whoever accepts connections gives them to `adopt`.

    When the application cannot serve a model, `refusal` says why.
    """

    def __init__(
        self, factory: Callable[[], ASGIApp], settings: Settings, gate: Gate, on_started: Callable[[], None]
    ) -> None:
        tls = tls_context(settings)
        self.refusal: str | None = None
        super().__init__(
            uvicorn.Config(
                lambda: _Application(factory(), self._refused),
                factory=True,
                interface="asgi3",
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
        self._adopting: set[asyncio.Future[None]] = set()
        self._adopted = 0

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._gate.start(asyncio.get_running_loop())
        settle_memory()
        self._on_started()

    def _refused(self, reason: str) -> None:
        self.refusal = reason

    @property
    def models(self) -> Models:
        """Those of the application, once it has started."""
        models: Models = self.lifespan.state.get("models", NoModels())
        return models

    @property
    def connections(self) -> int:
        """How many it holds."""
        return self._adopted - self._gate.vitals.closed

    @cached_property
    def _shared(self) -> Shared:
        loop = asyncio.get_running_loop()
        return Shared.of(self._gate, self.config, self.server_state, self.lifespan.state, loop)

    @cached_property
    def _bare_answers(self) -> BareAnswers | None:
        """None where the first bytes of a connection cannot be looked at as they lie there."""
        if self.config.is_ssl or not AT_ONCE:
            return None
        return BareAnswers(self._shared.lane, self._shared.replies)

    def adopt(self, connections: Iterable[int], *, kept: bool = False) -> None:
        """Serve connections that were accepted elsewhere, by their descriptors; `kept` where they have had requests."""
        for connection in connections:
            self._adopted += 1
            bare = self._bare_answers
            rest = b"" if bare is None else bare.answer(connection)
            if rest is None:
                self._gate.vitals.closed += 1
            else:
                self._go_on(self._adopt(connection, Connection(self._shared, rest, kept=kept)))

    async def _adopt(self, connection: int, protocol: Connection) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                socket.socket(fileno=connection),
                ssl=self.config.ssl,
                ssl_handshake_timeout=self._handshake_timeout,
            )
        except OSError:  # it is gone already, or its TLS handshake failed
            self._gate.vitals.closed += 1

    def _go_on(self, adoption: Coroutine[asyncio.Future[None], None, None], *_: object) -> None:
        """What a task does, but without waiting for its turn: with many new connections tasks cost a good part of each.

        From Python 3.12 on, asyncio has eager tasks.
        """
        with contextlib.suppress(StopIteration):
            handshake = adoption.send(None)
            self._adopting.add(handshake)
            handshake.add_done_callback(self._adopting.discard)
            handshake.add_done_callback(partial(self._go_on, adoption))

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


class Worker:
    """A data plane that is directed by a supervisor, over a channel, and begins with a catalogue."""

    def __init__(
        self, factory: Factory, channel: Channel, settings: Settings, scoreboard: Scoreboard, catalogue: Catalogue
    ) -> None:
        self._channel = channel
        self._catalogue = catalogue
        self._gate = Gate(settings, scoreboard.vitals)
        self._preparing: asyncio.Task[None] | None = None
        self._surplus = 0.0  # connections that are to be handed back
        self.plane = DataPlane(
            lambda: factory(settings, scoreboard.metrics, catalogue.live, self._beat),
            settings,
            self._gate,
            self._started,
        )

    def run(self) -> None:
        """Serve until the supervisor says otherwise, or is gone."""
        self._beat()  # all that it needs is imported
        tune_memory()
        reserve_descriptors(self._gate.settings)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            try:
                runner.run(self.plane.serve(sockets=[]))
            finally:
                if self.plane.refusal is not None:
                    self._channel.send(Word.FAILED, f"0 {self.plane.refusal[:_LONGEST_REASON]}")

    def _beat(self) -> None:
        """Give a sign of life before the gate gives them."""
        self._gate.vitals.beats += 1

    def _started(self) -> None:
        self._opening = Opening(self.plane.models)
        self.plane.models.supervise(self._broken)
        self.plane.models.tell(self._catalogue.entries)
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self.heed)
        self._channel.send(Word.READY)

    def heed(self) -> None:
        """Do what the supervisor says; without one, end."""
        try:
            word = None
            while word is not Word.CONNECTIONS:  # after which the loop has its turn: there may be ever more of them
                word, text, descriptors = self._channel.receive()
                self._obey(word, text, descriptors)
        except BlockingIOError:
            return
        except NoRoom:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._gate.vitals.full = 1
            self._wait_for_room()
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self.plane.close()

    def _wait_for_room(self) -> None:
        loop = asyncio.get_running_loop()
        if self._gate.vitals.full:
            loop.call_later(_PAUSE_SECONDS, self._wait_for_room)
        else:
            loop.add_reader(self._channel.fileno(), self.heed)

    def _obey(self, word: Word, text: str, descriptors: list[int]) -> None:
        match word:
            case Word.CONNECTIONS:
                self.plane.adopt(descriptors, kept=KEPT in text)
            case Word.PREPARE:
                number, name = text.split()
                self._preparing = asyncio.ensure_future(self._prepare(number, name, descriptors))
            case Word.RUNNER:
                self._connect(text, descriptors)
            case Word.OUT:
                opening, _, reason = text.partition(" ")
                self.plane.models.put_out(int(opening), reason)
            case Word.COMMIT:
                self._opening.install()
                self._channel.send(Word.DONE, text)
            case Word.ABORT:
                self._abort()
            case Word.CATALOGUE:
                self._tell(descriptors)
            case Word.SHARE:
                self._hand_back(int(text))
            case Word.DRAIN:
                self._hand_back(0)
                self.plane.drain()
            case _:
                self._hand_back(math.inf if word is Word.RETIRE else 0)
                self.plane.close()

    async def _prepare(self, number: str, name: str, descriptors: list[int]) -> None:
        if not descriptors:
            reason = f"models/{name}: a worker has no file descriptor left"
            self._channel.send(Word.FAILED, f"{number} {reason}")
            return
        placed = borrowed(Placed, descriptors[0])
        os.close(descriptors[0])
        try:
            await self._opening.prepare(name, placed)
        except ModelRefused as exc:
            self._channel.send(Word.FAILED, f"{number} {str(exc)[:_LONGEST_REASON]}")
        else:
            self._channel.send(Word.DONE, number)

    def _connect(self, text: str, descriptors: list[int]) -> None:
        opening, instance, slot = map(int, text.split())
        if len(descriptors) == _ENDS:
            end, board = descriptors
            self.plane.models.connect(opening, socket.socket(fileno=end), instance, board, slot)
        else:  # there is no room for them; without a runner its requests wait for as long as they may
            for descriptor in descriptors:
                os.close(descriptor)

    def _broken(self, opening: int, instance: int, reason: str) -> None:
        self._channel.send(Word.BROKEN, f"{opening} {instance} {reason}")

    def _abort(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
        self._opening.drop()

    def _tell(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:  # there is none when it finds no room: the next catalogue will
            entries = borrowed(Catalogue, descriptor).entries
            os.close(descriptor)
            self.plane.models.tell(entries)

    def _hand_back(self, connections: float) -> None:
        """Hand back so many connections, each when it is at rest."""
        self._surplus = connections
        self._gate.give_back = self._give_back if connections else None

    def _give_back(self, descriptor: int, *, kept: bool) -> bool:
        given = self._channel.send(Word.CONNECTIONS, KEPT if kept else "", [descriptor])
        if given:
            self._hand_back(self._surplus - 1)
        return given


def work(factory: Factory) -> None:
    """Be the worker whose channel is the descriptor that the command line names; its supervisor handles the signals."""
    leave_signals_to_parent()
    wake_at_once()
    end_with()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    _, snapshot, [memory, written] = channel.receive()  # it was sent before this process began
    scoreboard, catalogue = Scoreboard(memory), borrowed(Catalogue, written)
    os.close(memory)  # the mapping stays
    os.close(written)
    Worker(factory, channel, Settings.restore(snapshot), scoreboard, catalogue).run()

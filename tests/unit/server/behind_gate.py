"""The application behind the gate, with connections that need no network: what arrives is exactly what is fed."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from dependency_injector import providers
from typing_extensions import override
from uvicorn.server import ServerState

from tests.unit.log import Log
from tests.unit.models import FakeClient, FakeClients, FakeLoader, FakeModel, in_runners
from weighbridge.adapters import telemetry
from weighbridge.adapters.http import envelope, fast_route
from weighbridge.adapters.http.model_host import ModelHost
from weighbridge.adapters.runners.terms import Placed
from weighbridge.application import queue
from weighbridge.entrypoints.asgi import create_app
from weighbridge.server.edge import bare, connection, conversation, reader, replies
from weighbridge.server.edge.connection import Connection as GateConnection
from weighbridge.server.edge.gate import Gate
from weighbridge.server.edge.lane import Lane
from weighbridge.server.edge.replies import Due
from weighbridge.server.edge.shared import Shared

_MADE_ID = re.compile(rb"[0-9a-f]{12}-[0-9a-f]+")
_LENGTH = re.compile(rb"(?<=content-length: )\d+")


DESCRIPTOR = 4711


class FakeSocket:
    """A socket as far as its transport is asked for it."""

    def fileno(self) -> int:
        return DESCRIPTOR

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 8000

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 50000


class Clock:
    """The time that requests are measured by; it passes only when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        for module in (bare, connection, conversation, envelope, fast_route, queue, reader, replies, telemetry):
            monkeypatch.setattr(module, "perf_counter", self)

    def __call__(self) -> float:
        return self.now


class FakeTransport(asyncio.Transport):
    """Keeps what is written; all of it is read at once, unless a test says that some is not."""

    def __init__(self) -> None:
        super().__init__({"socket": FakeSocket()})
        self.written = b""
        self.unread = 0
        self.reading = True
        self.ended = False
        self.closing = False
        self.aborted = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    @override
    def write_eof(self) -> None:
        self.ended = True

    @override
    def can_write_eof(self) -> bool:
        return True

    @override
    def close(self) -> None:
        self.closing = self.ended = True

    @override
    def abort(self) -> None:
        self.aborted = self.closing = self.ended = True

    @override
    def is_closing(self) -> bool:
        return self.closing

    @override
    def pause_reading(self) -> None:
        self.reading = False

    @override
    def resume_reading(self) -> None:
        self.reading = True

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The limits are the test's."""

    @override
    def get_write_buffer_size(self) -> int:
        return self.unread


def comparable(written: bytes) -> bytes:
    """It without made ids, which always differ, and without lengths."""
    return _LENGTH.sub(b"(some)", _MADE_ID.sub(b"(made)", written))


class Connection:
    """One connection to the application."""

    def __init__(self, shared: Shared, *, kept: bool) -> None:
        self.protocol = GateConnection(shared, kept=kept)
        self.transport = FakeTransport()
        self._shared = shared
        self._loop = shared.road.loop
        self.protocol.connection_made(self.transport)

    def feed(self, *pieces: bytes) -> bytes:
        """What is written in answer to these pieces, `comparable`."""
        before = len(self.transport.written)
        self.receive(*pieces)
        self.settle()
        return comparable(self.transport.written[before:])

    def receive(self, *pieces: bytes) -> None:
        """Have these pieces arrive, while the event loop runs."""

        async def receive() -> None:
            for piece in pieces:
                self.protocol.data_received(piece)

        self._loop.run_until_complete(receive())

    def settle(self) -> None:
        """Let the application finish what it has begun, and all who are in the queue have their turn."""
        conversation, queue = self.protocol._conversation, self._shared.lane.queue
        while (tasks := list(self._shared.road.tasks)) or queue._turns or isinstance(conversation._serving, Due):
            self._loop.run_until_complete(asyncio.wait(tasks) if tasks else asyncio.sleep(0))


class Served:
    """The application, started."""

    def __init__(
        self,
        app: Any,
        gate: Gate,
        started: Mapping[str, Any],
        placed: Mapping[str, Placed],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.app = app
        self.gate = gate
        self.placed = placed
        self.lane: Lane = started["lane"]
        self.models: ModelHost = started["models"]
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"today")]
        self.loop = loop
        config = uvicorn.Config(app, log_config=None, ws="none")
        config.load()
        self.shared = Shared.of(gate, config, self.state, {"lane": self.lane}, loop)

    def connect(self, *, kept: bool = False) -> Connection:
        """A new connection, or one that was `kept` by another process."""
        return Connection(self.shared, kept=kept)

    def activate(self, version: str) -> None:
        """Have a version of the model answer from now on. Raises ModelRefused."""

        async def activate() -> None:
            self.models.install(self.models.open("churn", self.placed.get(version) or Placed(version)))

        self.loop.run_until_complete(activate())

    def look(self, times: int = 10) -> None:
        """Have the event loop go round so many times."""

        async def look() -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        self.loop.run_until_complete(look())


@contextmanager
def served(
    log: Log, models: Mapping[str, FakeModel | FakeClient] | None = None, *, slice_rows: int = 1000, **settings: Any
) -> Iterator[Served]:
    """The application with these settings, and otherwise the defaults, from start to end.

    `models` are versions of the model `churn`, by their numbers; the first is live. Those that answer later are called
    in runners, the others inline, in slices of `slice_rows`.
    """
    container = log.container(**settings)
    placed: dict[str, Placed] = {}
    if models:
        inline = {("churn", version): model for version, model in models.items() if isinstance(model, FakeModel)}
        remote = {int(version): model for version, model in models.items() if isinstance(model, FakeClient)}
        for version, model in models.items():
            is_remote = isinstance(model, FakeClient)
            placed[version] = (
                in_runners(version, int(version), model.signature) if is_remote else Placed(version, slice_rows)
            )
        container.loader.override(providers.Object(FakeLoader(inline)))
        container.clients.override(providers.Object(FakeClients(remote)))
        container.live.override(providers.Object({"churn": next(iter(placed.values()))}))
    app = create_app(container)
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)

        async def start() -> Mapping[str, Any]:
            state = await lifespan.__aenter__()
            assert state is not None
            return state

        async def stop() -> None:
            await lifespan.__aexit__(None, None, None)

        yield Served(app, Gate(container.settings()), runner.run(start()), placed, runner.get_loop())
        runner.run(stop())

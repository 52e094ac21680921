"""The one process, where a real one cannot be made to do what is asked at the right moment."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger
from typing_extensions import override

from tests.unit.server.shelf import FakeProver, FakeShelf
from tests.waiting import DEADLINE
from weighbridge.adapters.artefact import Artefact
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.alone import Alone
from weighbridge.server.listener import listen
from weighbridge.server.models import CannotStart, Rollouts
from weighbridge.server.opening import NoModels, Opening
from weighbridge.settings import Settings


async def stopped_while_it_starts(_scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    signal.raise_signal(signal.SIGTERM)
    for _ in range(10):  # turns of the loop, in which the signal is handled
        await asyncio.sleep(0)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


@contextmanager
def alone(app: ASGIApp, logger: FilteringBoundLogger, shelf: FakeShelf, prover: FakeProver) -> Iterator[Alone]:
    """The one process, yet to be run."""
    settings = Settings(load_timeout=0.05)
    rollouts = Rollouts(shelf, prover.made(), settings, logger)
    with closing(listen("127.0.0.1", 0)) as listener:
        yield Alone(lambda: app, bytearray(8), settings, listener, rollouts, inherited=False)


async def run(service: Alone) -> None:
    """Run it to its end."""
    async with asyncio.timeout(DEADLINE):
        await service.run(lambda: None)


def test_a_service_that_is_stopped_while_it_starts_ends_normally(logger: FilteringBoundLogger) -> None:
    with alone(stopped_while_it_starts, logger, FakeShelf(), FakeProver()) as service:
        asyncio.run(run(service))

        assert service.not_ready() == "draining"


class Interrupted(FakeProver):
    """Is interrupted by the end of the service."""

    @override
    async def prove(self, name: str, version: str) -> Artefact:
        await super().prove(name, version)
        signal.raise_signal(signal.SIGTERM)
        never: asyncio.Future[Artefact] = asyncio.get_running_loop().create_future()
        return await never


def test_a_service_that_is_stopped_while_its_models_are_proven_ends_normally(logger: FilteringBoundLogger) -> None:
    shelf = FakeShelf()
    shelf.put("m", "1")
    with alone(FastAPI(), logger, shelf, Interrupted()) as service:
        asyncio.run(run(service))

        assert service.not_ready() == "draining"


def raising(error: Exception) -> FastAPI:
    """An application that cannot start."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        raise error
        yield

    return FastAPI(lifespan=lifespan)


def test_a_service_that_cannot_serve_its_models_cannot_start(logger: FilteringBoundLogger) -> None:
    app = raising(ModelRefused("models/m/1: it is broken"))
    with (
        alone(app, logger, FakeShelf(), FakeProver()) as service,
        pytest.raises(CannotStart, match=r"^models/m/1: it is broken$"),
    ):
        asyncio.run(run(service))


def test_a_service_that_cannot_start_for_another_reason_ends_as_ever(logger: FilteringBoundLogger) -> None:
    with alone(raising(RuntimeError()), logger, FakeShelf(), FakeProver()) as service, pytest.raises(SystemExit):
        asyncio.run(run(service))


def test_what_does_not_open_in_time_is_refused(logger: FilteringBoundLogger) -> None:
    opening, artefact = Hanging(), Artefact.of(b"")
    before = threading.enumerate()

    async def main() -> None:
        with pytest.raises(
            ModelRefused, match=r"^models/m/2: expected it to open within 0.05 s, got one that did not$"
        ):
            await service.prepare("m", "2", artefact)

    with alone(FastAPI(), logger, FakeShelf(), FakeProver()) as service:
        service._opening = Opening(opening)
        asyncio.run(main())
    service.abort()
    opening.go_on.set()
    for thread in set(threading.enumerate()).difference(before):
        thread.join(DEADLINE)


class Hanging(NoModels):
    """Models that take until they are told to go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    @override
    def open(self, _name: str, _version: str, _read: Artefact | None) -> None:
        assert self.go_on.wait(DEADLINE)

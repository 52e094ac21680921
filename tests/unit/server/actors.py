"""Workers that live in the test's own process, and speak with a real supervisor as processes would."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from structlog.typing import FilteringBoundLogger

from tests.unit.server.fake_repository import FakeOpenings, FakeRepository
from tests.waiting import DEADLINE
from weighbridge.adapters.runners.terms import Board, Placed
from weighbridge.adapters.system.lending import borrowed
from weighbridge.server.catalogue import Catalogue
from weighbridge.server.channel import KEPT, Channel, Word
from weighbridge.server.scoreboard import Scoreboard
from weighbridge.server.supervisor import process, supervisor
from weighbridge.server.supervisor.listener import listen
from weighbridge.server.supervisor.rollouts import Rollouts
from weighbridge.server.supervisor.supervisor import Supervisor
from weighbridge.settings import Settings

_NO_PROCESS = 2**22
"""Linux gives no process this number, nor a higher one."""


class Met(NamedTuple):
    """A runner that a worker was told of: the number of its opening, the worker's slot, and its name."""

    opening: int
    slot: int
    name: str


def _met(text: str, end: int, board: int) -> Met:
    opening, instance, slot = map(int, text.split())
    assert os.fstat(board).st_size == Board.size(4)
    os.close(board)
    with socket.socket(fileno=end) as runner:
        name = runner.recv(100).decode()
    assert name.endswith(f" {instance}")
    return Met(opening, slot, name)


class Actor:
    """A worker. What it does when it is asked for something is up to what the stage `plays`."""

    def __init__(self, on_stage: "Stage", descriptor: int, number: int) -> None:
        self.number = number
        self.pid = _NO_PROCESS + number
        self._on_stage = on_stage
        self._end = Channel(socket.socket(fileno=os.dup(descriptor)))
        self.pidfd, self._life = os.pipe()
        _, _, [memory, written] = self._end.receive()
        self.scoreboard = Scoreboard(memory)
        self.catalogue = borrowed(Catalogue, written)
        os.close(memory)
        os.close(written)
        self.live = {name: placed.version for name, placed in self.catalogue.live.items()}
        self.heard: list[Word] = []
        self.given: list[Placed] = []
        self.runners: list[Met] = []
        self.out: list[str] = []
        self.connections = 0
        self.surplus = 0
        self.kept = 0  # of them, those that have had a request
        self.code: int | None = None
        self._prepared = ("", "")
        self._stands_still = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._end.fileno(), self._hear)
        self._loop.call_soon(self._come_up)

    @property
    def lives(self) -> bool:
        return self.code is None

    def send(self, word: Word, text: str = "", descriptors: Sequence[int] = ()) -> None:
        """Tell the supervisor something."""
        self._end.send(word, text, descriptors)

    def end(self, code: int) -> None:
        """Come to an end, as a process does."""
        if self.lives:
            self.code = code
            self._loop.remove_reader(self._end.fileno())
            self._end.close()
            os.close(self._life)

    def kill(self) -> None:
        """What Popen has."""
        self.end(-signal.SIGKILL)

    def wait(self) -> int:
        """What Popen has."""
        assert self.code is not None
        return self.code

    def _come_up(self) -> None:
        match self._on_stage.plays(self, Word.READY):
            case "does":
                self.come_up()
            case "fails":
                self.send(Word.FAILED, "0 models/m/1: it is broken")
                self.end(3)

    def come_up(self) -> None:
        """Be ready, and give signs of life."""
        self.send(Word.READY)
        self._beat()

    def stand_still(self) -> None:
        """Hear nothing any more, and give no sign of life."""
        self._stands_still = True
        self._loop.remove_reader(self._end.fileno())

    def go_on(self) -> None:
        """Hear again, and live."""
        self._stands_still = False
        self._loop.add_reader(self._end.fileno(), self._hear)

    def _beat(self) -> None:
        if self.lives:
            self.scoreboard.vitals.beats += not self._stands_still
            self._loop.call_later(0.05, self._beat)

    def _hear(self) -> None:
        with suppress(BlockingIOError):
            while self.lives:
                self._heed(*self._end.receive())

    def _heed(self, word: Word, text: str, descriptors: list[int]) -> None:
        self.heard.append(word)
        self._take(word, text, descriptors)
        number = text.partition(" ")[0]
        match word, self._on_stage.plays(self, word):
            case _, "dies":
                self.kill()
            case ((Word.PREPARE | Word.COMMIT), "fails"):
                self.send(Word.FAILED, f"{number} {'/'.join(['models', *self._prepared])}: it is broken")
            case Word.PREPARE, "does":
                self.send(Word.DONE, number)
            case Word.COMMIT, "does":
                self.live |= [self._prepared]
                self.send(Word.DONE, number)
            case ((Word.RETIRE | Word.CLOSE), _):
                self.end(0)

    def _take(self, word: Word, text: str, descriptors: list[int]) -> None:
        """Take what it is given."""
        match word:
            case Word.PREPARE:
                self.given.append(borrowed(Placed, descriptors[0]))
                self._prepared = (text.split()[1], self.given[-1].version)
            case Word.RUNNER:
                self.runners.append(_met(text, *descriptors))
                return
            case Word.OUT:
                self.out.append(text)
            case Word.CATALOGUE:
                self.catalogue = borrowed(Catalogue, descriptors[0])
            case Word.SHARE:
                self.surplus = int(text)
            case Word.CONNECTIONS:
                self.connections += len(descriptors)
                self.kept += len(descriptors) if KEPT in text else 0
        for descriptor in descriptors:
            os.close(descriptor)


def obeys(_actor: Actor, _word: Word) -> str:
    """Does whatever it is asked for."""
    return "does"


@dataclass
class Stage:
    """A supervisor with actors for workers."""

    actors: list[Actor]
    supervisor: Supervisor
    rollouts: Rollouts
    repository: FakeRepository
    openings: FakeOpenings
    address: tuple[str, int]
    plays: Callable[[Actor, Word], str]

    @property
    def living(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.lives]

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop run until a condition holds."""
        while not condition():
            await asyncio.wait({asyncio.ensure_future(asyncio.sleep(0))})

    async def settled(self, workers: int) -> None:
        """Until so many workers are ready, and no others are left."""
        await self.until(
            lambda: (
                [report.state for report in self.supervisor.workers()] == ["ready"] * workers
                and len(self.living) == workers
            )
        )


@asynccontextmanager
async def stage(
    monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger, *models: str, runners: int = 0, **settings: Any
) -> AsyncIterator[Stage]:
    """A supervisor that has started, with one model of these versions called m; it is stopped in the end.

    Each version has so many runners; without any, workers call it.
    """
    read = Settings(**{"hang_timeout": DEADLINE, **settings})
    repository, openings = FakeRepository(), FakeOpenings(runners)
    repository.put("m", *models, live=models[0])
    rollouts = Rollouts(repository, openings, read, logger)
    actors: list[Actor] = []

    def start(_command: Sequence[str], descriptor: int, _environment: Mapping[str, str]) -> tuple[Actor, int]:
        actor = Actor(on_stage, descriptor, len(actors))
        actors.append(actor)
        return actor, actor.pidfd

    monkeypatch.setattr(process, "_start", start)
    monkeypatch.setattr(supervisor, "_FIRST_DELAY", 0.0)
    with closing(listen("127.0.0.1", 0)) as listener, closing(openings):
        supervising = Supervisor([], read, listener, logger, rollouts, lambda: read, inherited=False)
        on_stage = Stage(actors, supervising, rollouts, repository, openings, listener.getsockname(), obeys)
        ready = asyncio.Event()
        async with asyncio.timeout(DEADLINE):
            running = asyncio.ensure_future(supervising.run(ready.set))
            await asyncio.wait({running, asyncio.ensure_future(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
            try:
                yield on_stage
            finally:
                on_stage.plays = obeys
                signal.raise_signal(signal.SIGTERM)
                await running

"""A worker without its supervisor, or with a connection that is gone."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI

from tests.starving import open_files, room_for
from tests.unit.server.opened import Asked, FakeModels, application
from tests.waiting import DEADLINE
from weighbridge.adapters.runners.terms import Placed, Terms
from weighbridge.adapters.system.lending import lent
from weighbridge.application.catalogue import ModelEntry
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.catalogue import Catalogue
from weighbridge.server.channel import Channel, Word
from weighbridge.server.edge import worker as module
from weighbridge.server.edge.gate import Gate
from weighbridge.server.edge.worker import DataPlane, Worker
from weighbridge.server.scoreboard import Scoreboard, Vitals
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
        worker = Worker(lambda *_: FastAPI(), ours, Settings(), Scoreboard.create(), Catalogue())
        supervisors.close()
        worker.heed()

        assert worker.plane.should_exit

    asyncio.run(main())


PLACED = Placed("1", 1, Terms(3, 2, 256, shares=True, call_seconds=0.001, row_seconds=0.0001), "manifest")


class Directed:
    """A worker that has started, and the supervisor's end of its channel."""

    def __init__(self, worker: Worker, vitals: Vitals, supervisor: Channel, models: FakeModels) -> None:
        self.worker = worker
        self.vitals = vitals
        self.supervisor = supervisor
        self.models = models

    def say(self, word: Word, text: str = "", descriptors: Sequence[int] = ()) -> None:
        self.supervisor.send(word, text, descriptors)
        self.worker.heed()

    def prepare(self, number: int, placed: Placed) -> None:
        with lent(placed) as memory:
            self.say(Word.PREPARE, f"{number} m", [memory])

    async def answer(self) -> tuple[Word, str]:
        """The next word of the worker."""
        while True:
            try:
                return self.supervisor.receive()[:2]
            except BlockingIOError:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def directed(ends: tuple[Channel, Channel], catalogue: Catalogue) -> AsyncIterator[Directed]:
    models = FakeModels()
    supervisors, ours = ends
    scoreboard = Scoreboard.create()
    worker = Worker(lambda *_: application(models), ours, Settings(), scoreboard, catalogue)
    worker.plane.config.load()
    worker.plane.lifespan = worker.plane.config.lifespan_class(worker.plane.config)
    await worker.plane.startup(sockets=[])
    on = Directed(worker, scoreboard.vitals, supervisors, models)
    assert await on.answer() == (Word.READY, "")
    yield on
    await worker.plane.shutdown()


def test_a_worker_opens_a_version_when_it_is_told_to_and_serves_it_when_all_have(ends: tuple[Channel, Channel]) -> None:
    async def main() -> None:
        async with directed(ends, Catalogue()) as on:
            on.prepare(7, PLACED)
            assert await on.answer() == (Word.DONE, "7")
            assert (on.models.placed, on.models.installed) == ([PLACED], [])
            on.say(Word.COMMIT, "8 ")
            assert on.models.installed == ["m 1"]
            assert await on.answer() == (Word.DONE, "8 ")

    asyncio.run(main())


def test_a_worker_without_room_to_be_told_where_a_version_is_called_cannot_open_it(
    ends: tuple[Channel, Channel],
) -> None:
    async def main() -> None:
        async with directed(ends, Catalogue()) as on:
            with lent(PLACED) as memory, room_for(0):
                on.say(Word.PREPARE, "7 m", [memory])
            reason = "models/m: a worker has no file descriptor left"
            assert await on.answer() == (Word.FAILED, f"7 {reason}")
            assert on.models.placed == []

    asyncio.run(main())


def test_a_worker_says_why_it_cannot_open_a_version(ends: tuple[Channel, Channel]) -> None:
    async def main() -> None:
        async with directed(ends, Catalogue()) as on:
            on.prepare(7, Placed("2"))
            assert await on.answer() == (Word.FAILED, "7 models/m/2: it is broken")

    asyncio.run(main())


def test_a_worker_forgets_what_it_is_opening_or_has_opened_when_it_is_told_to(ends: tuple[Channel, Channel]) -> None:
    async def main() -> None:
        async with directed(ends, Catalogue()) as on:
            on.say(Word.ABORT)
            on.prepare(7, Placed("3"))
            await asyncio.to_thread(on.models.opening.wait, DEADLINE)
            on.say(Word.ABORT)
            on.prepare(8, PLACED)
            assert await on.answer() == (Word.DONE, "8")
            on.models.go_on.set()
            on.say(Word.ABORT)
            assert on.models.dropped == ["m 1"]

    asyncio.run(main())


def test_a_worker_asks_the_runners_that_it_is_told_of(ends: tuple[Channel, Channel]) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        with near, far, lent(PLACED.terms) as board:
            far.send(b"runner 1")
            async with directed(ends, Catalogue()) as on:
                on.say(Word.RUNNER, "3 1 0", [near.fileno(), board])
                counts = os.pread(board, 100, 0)
                assert on.models.connected == [Asked(3, 1, 0, b"runner 1", counts)]

    asyncio.run(main())


@pytest.mark.parametrize("room", [0, 1])
def test_a_worker_without_room_for_a_runner_goes_on_without_it(ends: tuple[Channel, Channel], room: int) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        with near, far, lent(PLACED.terms) as board:
            async with directed(ends, Catalogue()) as on:
                before = open_files()
                with room_for(room):
                    on.say(Word.RUNNER, "3 1 0", [near.fileno(), board])
                assert on.models.connected == []
                assert open_files() == before

    asyncio.run(main())


def test_a_worker_knows_when_a_version_is_out_of_service(ends: tuple[Channel, Channel]) -> None:
    async def main() -> None:
        async with directed(ends, Catalogue()) as on:
            on.say(Word.OUT, "3 its process was killed")
            assert on.models.out == [(3, "its process was killed")]

    asyncio.run(main())


def test_a_worker_tells_of_a_runner_that_sent_what_it_may_not(ends: tuple[Channel, Channel]) -> None:
    async def main() -> None:
        async with directed(ends, Catalogue()) as on:
            on.models.broken(3, 1, "expected a frame, got a pickle")
            assert await on.answer() == (Word.BROKEN, "3 1 expected a frame, got a pickle")

    asyncio.run(main())


def test_a_worker_knows_the_catalogue_from_the_start_and_whenever_it_changes(ends: tuple[Channel, Channel]) -> None:
    first = {"m": ModelEntry("m", "1", None, ())}
    second = {"m": ModelEntry("m", "2", "1", (), "it is so")}

    async def main() -> None:
        async with directed(ends, Catalogue({"m": PLACED}, first)) as on:
            with lent(Catalogue({"m": Placed("2")}, second)) as catalogue:
                on.say(Word.CATALOGUE, "", [catalogue])
            on.say(Word.CATALOGUE)  # whose descriptor found no room
            assert on.models.told == [first, second]

    asyncio.run(main())


def test_a_worker_without_descriptors_leaves_a_connection_until_its_supervisor_has_seen_that(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        adopted: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        async with directed(ends, Catalogue()) as on:
            monkeypatch.setattr(on.worker.plane, "adopt", lambda connections, **_: adopted.set_result(connections))
            with socket.socket() as connection, room_for(0):
                on.say(Word.CONNECTIONS, "1", [connection.fileno()])
            assert on.vitals.full
            await asyncio.wait({adopted}, timeout=0.1)
            assert not adopted.done()
            on.vitals.full = 0
            async with asyncio.timeout(DEADLINE):
                [descriptor] = await adopted
            os.close(descriptor)

    asyncio.run(main())


def test_connections_that_come_without_end_leave_a_worker_its_turns(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        adopted: list[int] = []
        async with directed(ends, Catalogue()) as on:
            monkeypatch.setattr(on.worker.plane, "adopt", lambda connections, **_: adopted.extend(connections))
            with socket.socket() as connection:
                on.supervisor.send(Word.CONNECTIONS, "1", [connection.fileno()])
                on.say(Word.CONNECTIONS, "2", [connection.fileno()])
                assert len(adopted) == 1
                on.worker.heed()
                assert len(adopted) == 2
            for descriptor in adopted:
                os.close(descriptor)

    asyncio.run(main())


@pytest.mark.parametrize(("text", "kept"), [("1", False), ("1 kept", True)])
def test_a_worker_is_told_whether_connections_have_had_a_request(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch, text: str, *, kept: bool
) -> None:
    async def main() -> None:
        told: list[bool] = []
        async with directed(ends, Catalogue()) as on:
            monkeypatch.setattr(on.worker.plane, "adopt", lambda _, *, kept: told.append(kept))
            on.say(Word.CONNECTIONS, text)
        assert told == [kept]

    asyncio.run(main())


@pytest.mark.parametrize(("kept", "text"), [(False, ""), (True, "kept")])
def test_a_worker_that_retires_tells_whether_a_connection_has_had_a_request(
    ends: tuple[Channel, Channel], text: str, *, kept: bool
) -> None:
    async def main() -> None:
        async with directed(ends, Catalogue()) as on:
            on.say(Word.RETIRE)
            give_back = on.worker._gate.give_back
            assert give_back is not None
            assert give_back(0, kept=kept)
            word, said, [descriptor] = on.supervisor.receive()
            os.close(descriptor)
            assert (word, said) == (Word.CONNECTIONS, text)

    asyncio.run(main())


def test_a_worker_hands_back_as_many_connections_as_it_is_told_to_and_serves_on(ends: tuple[Channel, Channel]) -> None:
    async def main() -> None:
        async with directed(ends, Catalogue()) as on:
            on.say(Word.SHARE, "2")
            for _ in range(2):
                give_back = on.worker._gate.give_back
                assert give_back is not None
                assert not give_back(-1, kept=True)  # which does not count
                assert give_back(0, kept=True)

            assert on.worker._gate.give_back is None
            assert not on.worker.plane.should_exit

    asyncio.run(main())


@pytest.mark.parametrize("word", [Word.DRAIN, Word.CLOSE])
def test_a_worker_hands_back_no_connections_once_the_service_ends(ends: tuple[Channel, Channel], word: Word) -> None:
    async def main() -> None:
        async with directed(ends, Catalogue()) as on:
            on.say(Word.SHARE, "2")
            on.say(word)

            assert on.worker._gate.give_back is None

    asyncio.run(main())


def test_an_application_that_does_not_start_for_another_reason_says_so_as_ever(
    ends: tuple[Channel, Channel], caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        raise RuntimeError("a fault")
        yield

    worker = Worker(lambda *_: FastAPI(lifespan=lifespan), ends[1], Settings(), Scoreboard.create(), Catalogue())
    with pytest.raises(SystemExit):
        worker.run()

    assert "RuntimeError: a fault" in caplog.text
    with pytest.raises(BlockingIOError):
        ends[0].receive()


def test_an_application_that_cannot_serve_its_models_says_so_in_one_line(
    ends: tuple[Channel, Channel], caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        raise ModelRefused("models/m/1: it is broken")
        yield

    worker = Worker(lambda *_: FastAPI(lifespan=lifespan), ends[1], Settings(), Scoreboard.create(), Catalogue())
    with pytest.raises(SystemExit):
        worker.run()

    assert ends[0].receive()[:2] == (Word.FAILED, "0 models/m/1: it is broken")
    assert "Traceback" not in caplog.text


def test_each_step_of_its_start_is_a_sign_of_life(ends: tuple[Channel, Channel]) -> None:
    def starting(opened: Callable[[], None]) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            opened()
            beats.append(scoreboard.vitals.beats)
            raise ModelRefused("models/m/1: it is broken")
            yield

        beats.append(scoreboard.vitals.beats)
        return FastAPI(lifespan=lifespan)

    beats = list[int]()
    scoreboard = Scoreboard.create()
    worker = Worker(lambda *given: starting(given[-1]), ends[1], Settings(), scoreboard, Catalogue())
    assert scoreboard.vitals.beats == 0
    with pytest.raises(SystemExit):
        worker.run()

    assert beats == [1, 2]


class Unanswered:
    """In place of BareAnswers: every connection needs a transport."""

    def answer(self, _descriptor: int) -> bytes:
        return b""


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> DataPlane:
    """One that serves nothing yet."""
    plane = DataPlane(FastAPI, Settings(), Gate(Settings()), lambda: None)
    vars(plane)["_shared"] = None
    vars(plane)["_bare_answers"] = Unanswered()
    monkeypatch.setattr(module, "Connection", lambda *_, **__: asyncio.Protocol())
    plane.config.load()
    return plane


def test_a_worker_that_ends_waits_for_the_connections_that_it_is_adopting(plane: DataPlane) -> None:
    async def main() -> None:
        plane.lifespan = plane.config.lifespan_class(plane.config)
        await plane.startup(sockets=[])
        near, far = socket.socketpair()
        with far:
            plane.adopt([near.detach()])
            [adopting] = plane._adopting
            await plane.shutdown()

            assert adopting.done()

    asyncio.run(main())

"""Operations on models agreed upon by workers, which may fail, hang or die at any time."""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, suppress
from time import monotonic
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.typing import FilteringBoundLogger

from tests.starving import open_files
from tests.unit.log import Log
from tests.unit.server.actors import Actor, Met, Stage, stage
from tests.unit.server.fake_repository import FakeOpenings, FakeRunner
from weighbridge.adapters.metrics import ModelLabel, RequestMetrics
from weighbridge.adapters.repository import FoundVersion
from weighbridge.adapters.runners.terms import Placed
from weighbridge.adapters.system.lending import lent
from weighbridge.domain.errors import ModelRefused, NothingToRollBack
from weighbridge.server.catalogue import Catalogue, Outcome, Stopping
from weighbridge.server.channel import Channel, Word
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.supervisor import process, rollouts, supervisor
from weighbridge.server.supervisor.rollouts import CannotStart
from weighbridge.server.supervisor.supervisor import Supervisor

Scene = Callable[[Stage], Coroutine[Any, Any, None]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger) -> Callable[..., None]:
    """Plays a scene with workers that serve version 1 of a model m, which has a version 2, too."""

    def play(scene: Scene, **settings: Any) -> None:
        async def main() -> None:
            async with stage(monkeypatch, logger, "1", "2", **{"workers": 2, **settings}) as on_stage:
                await scene(on_stage)

        asyncio.run(main())

    return play


@pytest.fixture
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds from one look of the supervisor at its workers to the next."""
    seconds = 0.02
    monkeypatch.setattr(process, "TICK_SECONDS", seconds)
    monkeypatch.setattr(supervisor, "TICK_SECONDS", seconds)
    return seconds


def when(word: Word, number: int, deed: str) -> Callable[[Actor, Word], str]:
    """All obey, but the worker of this number does something else when it hears a word."""
    return lambda actor, heard: deed if (actor.number, heard) == (number, word) else "does"


def test_all_workers_serve_what_all_have_opened(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        outcome = await on.rollouts.activate("m", "2")

        assert outcome == Outcome("m", "2", "1", persisted=True)
        assert [actor.live for actor in on.living] == [{"m": "2"}, {"m": "2"}]
        await on.until(lambda: all(actor.catalogue.entries["m"].live == "2" for actor in on.living))
        assert len(on.actors) == 2

    play(scene)


def test_a_version_is_opened_by_one_worker_after_the_other(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.PREPARE, 0, "nothing")
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await on.until(lambda: Word.PREPARE in on.actors[0].heard)

        assert Word.PREPARE not in on.actors[1].heard
        on.actors[0].kill()
        with pytest.raises(ModelRefused):
            await activation

    play(scene)


def test_what_one_worker_cannot_open_none_serves(play: Callable[..., None], log: Log) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.PREPARE, 1, "fails")
        with pytest.raises(ModelRefused, match=r"^models/m/2: it is broken$"):
            await on.rollouts.activate("m", "2")

        await on.until(lambda: all(Word.ABORT in actor.heard for actor in on.actors))
        assert on.openings.retired == [("m", "2")]
        assert [actor.live for actor in on.living] == [{"m": "1"}, {"m": "1"}]
        assert on.repository.found["m"].rollout is not None
        assert on.repository.found["m"].rollout.live == "1"

    play(scene)

    [refused] = log.written("model_refused")
    assert (refused["model"], refused["live"], refused["reason"]) == ("m", "1", "models/m/2: it is broken")


def test_a_worker_that_dies_while_it_opens_a_version_is_the_reason_to_refuse_that(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.PREPARE, 0, "dies")
        with pytest.raises(ModelRefused, match=r"a worker was killed by SIGKILL$"):
            await on.rollouts.activate("m", "2")
        await on.settled(2)

        assert [actor.live for actor in on.living] == [{"m": "1"}, {"m": "1"}]

    play(scene)


def test_a_worker_that_does_not_open_a_version_in_time_is_replaced_and_the_version_refused(
    play: Callable[..., None],
) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.PREPARE, 0, "nothing")
        with pytest.raises(ModelRefused, match=r"^models/m/2: a worker did not open it within 0.05 s"):
            await on.rollouts.activate("m", "2")
        await on.settled(2)

        assert [actor.number for actor in on.living] == [1, 2]
        assert [actor.live for actor in on.living] == [{"m": "1"}, {"m": "1"}]

    play(scene, load_timeout=0.05)


def test_an_answer_that_comes_too_late_counts_for_nothing(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.PREPARE, 1, "nothing")
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await on.until(lambda: Word.PREPARE in on.actors[1].heard)
        on.actors[0].send(Word.DONE, "1")
        on.actors[0].send(Word.FAILED, "1 too late")
        on.actors[1].send(Word.DONE, "1")

        assert (await activation).live == "2"

    play(scene)


def test_a_worker_that_dies_when_all_have_agreed_is_replaced_by_one_that_serves_what_was_decided(
    play: Callable[..., None],
) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.COMMIT, 0, "dies")
        assert (await on.rollouts.activate("m", "2")).live == "2"
        await on.settled(2)

        assert [actor.live for actor in on.living] == [{"m": "2"}, {"m": "2"}]

    play(scene)


def test_a_worker_that_has_agreed_may_die_before_the_others_have(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.PREPARE, 1, "nothing")
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await on.until(lambda: Word.PREPARE in on.actors[1].heard)
        on.actors[0].kill()
        await on.until(lambda: len(on.actors) == 3)
        on.actors[1].send(Word.DONE, "1")

        assert (await activation).live == "2"
        await on.settled(2)
        assert [actor.live for actor in on.living] == [{"m": "2"}, {"m": "2"}]

    play(scene)


def test_a_worker_that_does_not_take_up_what_was_decided_is_killed(play: Callable[..., None], log: Log) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.COMMIT, 0, "nothing")
        assert (await on.rollouts.activate("m", "2")).live == "2"
        await on.settled(2)

        assert [actor.live for actor in on.living] == [{"m": "2"}, {"m": "2"}]

    play(scene, hang_timeout=0.5)

    assert [line["reason"] for line in log.written("worker_died")] == ["did not serve the version that was decided on"]


@asynccontextmanager
async def one_starts(on: Stage) -> AsyncIterator[Actor]:
    """Meanwhile one of the workers, the third, is starting; then it comes up."""
    on.plays = when(Word.READY, 2, "nothing")
    on.actors[0].kill()
    await on.until(lambda: len(on.actors) == 3)
    yield on.actors[2]
    on.actors[2].come_up()


def test_what_is_decided_while_a_worker_starts_it_serves_before_it_is_ready(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        def commits(actor: Actor, word: Word) -> str:
            if word is Word.COMMIT:
                states.extend(report.state for report in on.supervisor.workers() if report.pid == actor.pid)
            return "does"

        states = list[str]()
        on.repository.put("n", "1", "2", live="1")
        async with one_starts(on):
            for name, version in (("m", "2"), ("n", "2"), ("m", "1"), ("m", "2")):
                assert (await on.rollouts.activate(name, version)).live == version
            on.plays = commits
        await on.settled(2)

        served = {"m": "2", "n": "2"}
        assert [(actor.number, actor.live) for actor in on.living] == [(1, served), (2, served)]
        assert states == ["starting", "starting"]

    play(scene)


def test_a_worker_that_may_have_read_a_version_before_its_files_changed_opens_it_again(
    play: Callable[..., None],
) -> None:
    async def scene(on: Stage) -> None:
        async with one_starts(on) as starting:
            on.repository.change("m", "1", FoundVersion(fingerprint="other"))
            assert (await on.rollouts.reload("m")).live == "1"
        await on.settled(2)

        assert [actor.number for actor in on.living] == [1, 2]
        assert [placed.version for placed in starting.given] == ["1"]

    play(scene)


@pytest.mark.parametrize("word", [Word.PREPARE, Word.COMMIT])
@pytest.mark.parametrize(
    ("deed", "reason"),
    [("fails", "could not serve its models: models/m/2: it is broken"), ("dies", "was killed by SIGKILL")],
)
def test_a_worker_that_cannot_serve_what_was_decided_while_it_started_is_replaced(
    play: Callable[..., None], log: Log, word: Word, deed: str, reason: str
) -> None:
    async def scene(on: Stage) -> None:
        async with one_starts(on):
            await on.rollouts.activate("m", "2")
            on.plays = when(word, 2, deed)
        await on.settled(2)

        assert [(actor.number, actor.live) for actor in on.living] == [(1, {"m": "2"}), (3, {"m": "2"})]

    play(scene)

    assert log.written("worker_died")[1]["reason"] == reason


def test_a_worker_that_dies_once_it_serves_what_was_decided_while_it_started_is_replaced(
    play: Callable[..., None],
) -> None:
    def dies_afterwards(actor: Actor, word: Word) -> str:
        if (actor.number, word) == (2, Word.COMMIT):
            asyncio.get_running_loop().call_soon(actor.kill)
        return "does"

    async def scene(on: Stage) -> None:
        async with one_starts(on):
            await on.rollouts.activate("m", "2")
            on.plays = dies_afterwards
        await on.settled(2)

        assert [(actor.number, actor.live) for actor in on.living] == [(1, {"m": "2"}), (3, {"m": "2"})]

    play(scene)


def test_what_is_refused_meanwhile_does_not_keep_a_worker_from_serving_what_was_decided(
    play: Callable[..., None],
) -> None:
    async def scene(on: Stage) -> None:
        async with one_starts(on) as starting:
            await on.rollouts.activate("m", "2")
            on.plays = when(Word.PREPARE, 2, "nothing")
        await on.until(lambda: Word.PREPARE in starting.heard)
        on.plays = when(Word.PREPARE, 1, "fails")
        with pytest.raises(ModelRefused):
            await on.rollouts.activate("m", "1")
        starting.send(Word.DONE, "1")
        await on.settled(2)

        assert [(actor.number, actor.live) for actor in on.living] == [(1, {"m": "2"}), (2, {"m": "2"})]
        assert Word.ABORT not in starting.heard

    play(scene)


def test_a_worker_that_comes_up_when_another_is_in_its_place_only_ends(play: Callable[..., None]) -> None:
    def comes_up_late(actor: Actor, word: Word) -> str:
        if (actor.number, word) == (2, Word.RETIRE):
            actor.come_up()
        return when(Word.READY, 2, "nothing")(actor, word)

    async def scene(on: Stage) -> None:
        on.plays = comes_up_late
        on.actors[0].kill()
        await on.until(lambda: len(on.actors) == 3)
        signal.raise_signal(signal.SIGHUP)
        await on.until(lambda: len(on.actors) == 5)
        await on.settled(2)

        assert [actor.number for actor in on.living] == [3, 4]

    play(scene)


@pytest.mark.parametrize(("deed", "stays"), [("does", 2), ("fails", 3)])
def test_a_worker_that_comes_up_after_the_others_had_agreed_goes_along_or_is_replaced(
    play: Callable[..., None], deed: str, stays: int
) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.READY, 2, "nothing")
        on.actors[0].kill()
        await on.until(lambda: len(on.actors) == 3)
        loop = asyncio.get_running_loop()

        async def come_up() -> None:
            on.plays = when(Word.PREPARE, 2, deed)
            on.actors[2].come_up()
            await on.until(lambda: [report.state for report in on.supervisor.workers()] == ["ready"] * 2)

        on.repository.before_writing = lambda: asyncio.run_coroutine_threadsafe(come_up(), loop).result()
        assert (await on.rollouts.activate("m", "2")).live == "2"
        await on.settled(2)

        assert [(actor.number, actor.live) for actor in on.living] == [(1, {"m": "2"}), (stays, {"m": "2"})]

    play(scene)


def test_a_worker_that_cannot_be_reached_at_first_is_asked_again(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    send, refused = Channel.send, list[Word]()

    def send_late(self: Channel, word: Word, *arguments: Any) -> bool:
        if word in {Word.PREPARE, Word.COMMIT} and word not in refused:
            refused.append(word)
            return False
        return send(self, word, *arguments)

    async def scene(on: Stage) -> None:
        monkeypatch.setattr(Channel, "send", send_late)
        await on.rollouts.activate("m", "2")

        assert [actor.live for actor in on.living] == [{"m": "2"}, {"m": "2"}]
        assert refused == [Word.PREPARE, Word.COMMIT]

    play(scene)


@pytest.mark.parametrize(("number", "missed"), [(0, Word.PREPARE), (1, Word.COMMIT)])
def test_a_worker_that_stands_still_for_a_while_hears_what_it_was_told_meanwhile(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch, number: int, missed: Word
) -> None:
    async def scene(on: Stage) -> None:
        monkeypatch.setattr("weighbridge.server.supervisor.process._SILENT_SECONDS", 0.25)
        still = on.actors[1]
        [worker] = [worker for worker in on.supervisor._workers if worker.pidfd == still.pidfd]

        def stand_still(actor: Actor, heard: Word) -> str:
            if (actor.number, heard) == (number, Word.PREPARE):
                still.stand_still()
            return "does"

        on.plays = stand_still
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await on.until(lambda: worker.silent_seconds >= 0.5)
        assert missed not in still.heard
        still.go_on()

        assert (await activation).live == "2"
        assert [(actor.number, actor.live) for actor in on.living] == [(0, {"m": "2"}), (1, {"m": "2"})]

    play(scene)


def test_a_worker_that_stands_still_for_too_long_is_the_reason_to_refuse_what_it_does_not_hear(
    play: Callable[..., None],
) -> None:
    async def scene(on: Stage) -> None:
        on.actors[0].stand_still()
        with pytest.raises(ModelRefused, match=r"a worker gave no sign of life for 0.25 s$"):
            await on.rollouts.activate("m", "2")
        await on.settled(2)

        assert [(actor.number, actor.live) for actor in on.living] == [(1, {"m": "1"}), (2, {"m": "1"})]

    play(scene, hang_timeout=0.2)


def test_without_any_worker_it_is_decided_what_the_next_ones_serve(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        on.plays = lambda actor, word: "fails" if word is Word.READY and actor.live == {"m": "1"} else "does"
        for actor in on.actors[:2]:
            actor.kill()
        await on.until(lambda: "could not serve its models: models/m/1" in (on.supervisor.not_ready() or ""))
        await on.rollouts.activate("m", "2")
        await on.settled(2)

        assert [actor.live for actor in on.living] == [{"m": "2"}, {"m": "2"}]

    play(scene)


def test_a_worker_that_cannot_serve_its_models_at_the_start_says_why(
    monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger
) -> None:
    async def main() -> None:
        monkeypatch.setattr("tests.unit.server.actors.obeys", lambda *_: "fails")
        await stage(monkeypatch, logger, "1").__aenter__()

    with pytest.raises(
        CannotStart, match=r"starting failed: a worker could not serve its models: models/m/1: it is broken; "
    ):
        asyncio.run(main())


def test_nothing_is_decided_while_the_service_ends(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.PREPARE, 1, "nothing")
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await on.until(lambda: Word.PREPARE in on.actors[1].heard)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopping):
            await activation
        with pytest.raises(Stopping):
            await on.rollouts.rollback("m")

        assert [actor.live for actor in on.actors] == [{"m": "1"}, {"m": "1"}]
        assert Word.ABORT in on.actors[0].heard

    play(scene, drain_delay=0.1)


def test_an_operation_is_decided_when_the_workers_have_been_replaced(play: Callable[..., None], log: Log) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.READY, 2, "nothing")
        signal.raise_signal(signal.SIGHUP)
        await on.until(lambda: len(on.actors) == 3)
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await on.until(lambda: len(on.openings.hosted) == 2)
        assert not [actor for actor in on.actors if Word.PREPARE in actor.heard]
        assert on.openings.heeded == []
        on.actors[2].come_up()
        await activation

        assert [(actor.number, actor.live) for actor in on.living] == [(2, {"m": "2"}), (3, {"m": "2"})]
        assert len(on.openings.heeded) == 1

    play(scene)

    assert len(log.written("reloaded")) == 1


def test_an_operation_is_done_while_a_reload_waits_for_a_worker_that_does_not_come_up(
    play: Callable[..., None], log: Log
) -> None:
    def comes_up(actor: Actor, word: Word) -> str:
        return "fails" if word is Word.READY and actor.number > 2 and actor.live == {"m": "1"} else "does"

    async def scene(on: Stage) -> None:
        on.plays = comes_up
        signal.raise_signal(signal.SIGHUP)
        await on.until(lambda: log.of("worker_died"))
        await on.rollouts.activate("m", "2")
        await on.until(lambda: log.of("reloaded"))

        assert [actor.live for actor in on.living] == [{"m": "2"}, {"m": "2"}]

    play(scene)

    reason = "could not serve its models: models/m/1: it is broken"
    assert {(line["worker"], line["reason"]) for line in log.written("worker_died")} == {(1, reason)}


def test_a_reload_that_waits_for_a_worker_gives_way_to_the_next_reload(play: Callable[..., None], log: Log) -> None:
    async def scene(on: Stage) -> None:
        def comes_up(actor: Actor, word: Word) -> str:
            [slot] = [slot for worker, slot in on.supervisor._workers.items() if worker.pidfd == actor.pidfd]
            return "fails" if word is Word.READY and slot.number == 1 and on.actors[2].lives else "does"

        on.plays = comes_up
        signal.raise_signal(signal.SIGHUP)
        await on.until(lambda: log.of("worker_died"))
        signal.raise_signal(signal.SIGHUP)
        await on.until(lambda: log.of("reloaded"))

        assert len(on.living) == 2
        assert not on.actors[2].lives

    play(scene)

    assert len(log.written("reloaded")) == 1


def test_all_reloads_end_when_the_service_does(play: Callable[..., None]) -> None:
    rolls = list[asyncio.Task[None] | None]()

    async def scene(on: Stage) -> None:
        on.plays = when(Word.READY, 2, "nothing")
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
            await on.until(lambda: on.supervisor._rolling not in [None, *rolls])
            rolls.append(on.supervisor._rolling)
        await on.until(lambda: len(on.actors) == 3)

    play(scene)

    assert [roll is not None and roll.cancelled() for roll in rolls] == [True, True]


def test_a_new_worker_that_cannot_serve_its_models_is_why_a_reload_is_refused(
    play: Callable[..., None], log: Log
) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.READY, 2, "fails")
        signal.raise_signal(signal.SIGHUP)
        await on.until(lambda: log.of("reload_refused"))

        assert [actor.number for actor in on.living] == [0, 1]

    play(scene)

    assert log.written("reload_refused")[0]["reason"].endswith("could not serve its models: models/m/1: it is broken")


def without_memory_for(kind: type) -> Callable[[object], AbstractContextManager[int]]:
    """Lends all but values of one kind, for which there are no descriptors."""

    def lend(value: object) -> AbstractContextManager[int]:
        if isinstance(value, kind):
            raise OSError(errno.EMFILE, "Too many open files")
        return lent(value)

    return lend


def test_a_catalogue_that_cannot_be_told_is_told_with_the_next(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(on: Stage) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(supervisor, "lent", without_memory_for(Catalogue))
            await on.rollouts.activate("m", "2")
        await on.rollouts.activate("m", "1")
        await on.until(lambda: all(actor.catalogue.entries["m"].previous == "2" for actor in on.living))

    play(scene)


def test_a_version_of_which_no_worker_can_be_told_is_refused(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(on: Stage) -> None:
        monkeypatch.setattr(supervisor, "lent", without_memory_for(Placed))
        with pytest.raises(ModelRefused, match=r"^models/m/2: no file descriptor is left$"):
            await on.rollouts.activate("m", "2")

        assert [actor.live for actor in on.living] == [{"m": "1"}, {"m": "1"}]

    play(scene)


# Runners


def met(on: Stage) -> list[list[Met]]:
    """The runners that each worker was told of."""
    return [actor.runners for actor in on.actors]


def test_a_worker_that_starts_is_told_of_the_runners_of_all_that_is_live(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        await on.until(lambda: all(len(actor.runners) == 2 for actor in on.actors))

        assert met(on) == [[Met(1, slot, "m 1 0"), Met(1, slot, "m 1 1")] for slot in (0, 1)]
        assert [actor.catalogue.live["m"].terms for actor in on.actors] == [on.openings.hosted[0].placed.terms] * 2

    play(scene, runners=2)


def test_a_worker_that_makes_ready_for_a_version_is_told_of_its_runners_before_it_serves_it(
    play: Callable[..., None],
) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.PREPARE, 1, "fails")
        with pytest.raises(ModelRefused):
            await on.rollouts.activate("m", "2")

        await on.until(lambda: len(on.actors[0].runners) == 2)
        assert on.actors[0].given == [Placed("2", 1, on.actors[0].given[0].terms)]
        assert met(on) == [[Met(1, 0, "m 1 0"), Met(2, 0, "m 2 0")], [Met(1, 1, "m 1 0")]]

    play(scene, runners=1)


def test_a_runner_that_takes_the_place_of_another_is_told_to_every_worker_but_those_that_start(
    play: Callable[..., None],
) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.READY, 2, "nothing")
        on.actors[0].kill()
        await on.until(lambda: len(on.actors) == 3)
        on.openings.replace(on.openings.hosted[0], 0)
        await on.until(lambda: len(on.actors[1].runners) == 2)
        assert on.actors[2].runners == []
        on.actors[2].come_up()
        await on.until(lambda: on.actors[2].runners)

        assert met(on)[1:] == [[Met(1, 1, "m 1 0"), Met(1, 1, "m 1 anew 0")], [Met(1, 0, "m 1 anew 0")]]

    play(scene, runners=1)


def test_every_worker_is_told_when_a_version_is_out_of_service_and_one_that_starts_once_it_is_ready(
    play: Callable[..., None],
) -> None:
    async def scene(on: Stage) -> None:
        on.openings.put_out(on.openings.hosted[0], "its process was killed")
        await on.until(lambda: all(actor.out == ["1 its process was killed"] for actor in on.actors))
        on.actors[0].kill()
        await on.until(lambda: len(on.actors) == 3 and on.actors[2].out)

        assert on.actors[2].out == ["1 its process was killed"]
        assert on.actors[2].runners == []

    play(scene, runners=1)


def test_a_runner_that_sends_a_worker_what_it_may_not_is_reported_to_whoever_opened_it(
    play: Callable[..., None],
) -> None:
    async def scene(on: Stage) -> None:
        on.actors[0].send(Word.BROKEN, "1 0 expected a frame, got a pickle")
        await on.until(lambda: on.openings.blamed)

        assert on.openings.blamed == [(1, 0, "expected a frame, got a pickle")]

    play(scene, runners=1)


def test_a_runner_for_which_there_are_no_descriptors_is_told_to_workers_later(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(on: Stage) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(FakeRunner, "meet", lambda _: None)
            on.openings.replace(on.openings.hosted[0], 0)
        await on.until(lambda: all(len(actor.runners) == 2 for actor in on.actors))

    play(scene, runners=1)


class Ended:
    """The end of a runner that is over, and how often it was looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def done(self) -> bool:
        self.looks += 1
        return True


def test_a_runner_that_has_ended_by_then_is_told_to_no_worker(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(on: Stage) -> None:
        await on.until(lambda: all(actor.runners for actor in on.actors))
        with monkeypatch.context() as patch:
            patch.setattr(FakeRunner, "meet", lambda _: None)
            on.openings.replace(on.openings.hosted[0], 0)
        [runner], ended = on.openings.hosted[0].ready, Ended()
        monkeypatch.setattr(runner, "ended", ended)
        await on.until(lambda: ended.looks == 2)

        assert [len(runners) for runners in met(on)] == [1, 1]

    play(scene, runners=1)


def test_a_worker_has_the_lowest_slot_that_is_free_which_is_cleared_when_it_ends(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        signal.raise_signal(signal.SIGHUP)
        await on.until(lambda: len(on.actors) == 4)
        await on.settled(2)
        await on.until(lambda: all(actor.runners for actor in on.living))

        assert [actor.runners[0].slot for actor in on.actors] == [0, 1, 2, 0]
        assert on.openings.cleared == [0, 1]

    play(scene, runners=1)


def test_the_descriptors_of_runners_count_in_the_limit_on_a_workers_connections(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        [worker] = on.supervisor._workers

        assert worker.room == 7

    play(scene, runners=3, workers=1, max_connections=10)


def full_for(monkeypatch: pytest.MonkeyPatch, word: Word, messages: int = 1) -> list[Word]:
    """The first messages with a word find no room; they are noted."""
    send, refused = Channel.send, list[Word]()

    def send_late(self: Channel, sent: Word, *arguments: Any) -> bool:
        if sent is word and len(refused) < messages:
            refused.append(sent)
            return False
        return send(self, sent, *arguments)

    monkeypatch.setattr(Channel, "send", send_late)
    return refused


def test_a_worker_whose_channel_is_full_is_told_of_a_runner_once_there_is_room(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(on: Stage) -> None:
        await on.until(lambda: all(actor.runners for actor in on.actors))
        descriptors = open_files()
        refused = full_for(monkeypatch, Word.RUNNER)
        on.openings.replace(on.openings.hosted[0], 0)
        assert len(open_files()) > len(descriptors)
        await on.until(lambda: all(len(actor.runners) == 2 for actor in on.actors))
        assert refused
        assert open_files() == descriptors

    play(scene, runners=1)


def test_what_a_worker_is_told_keeps_its_order_while_its_channel_is_full(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(on: Stage) -> None:
        [actor], [hosted] = on.actors, on.openings.hosted
        await on.until(lambda: actor.runners)
        full_for(monkeypatch, Word.RUNNER, messages=2)
        on.openings.replace(hosted, 0)
        on.openings.put_out(hosted, "its process was killed")
        await on.until(lambda: actor.out)

        told = [word for word in actor.heard if word in {Word.RUNNER, Word.OUT}]
        assert told == [Word.RUNNER, Word.RUNNER, Word.OUT]

    play(scene, workers=1, runners=1)


def test_a_worker_whose_channel_is_full_is_not_told_what_there_are_no_descriptors_to_keep(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dup(_descriptor: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scene(on: Stage) -> None:
        [actor], [hosted] = on.actors, on.openings.hosted
        await on.until(lambda: actor.runners)
        full_for(monkeypatch, Word.RUNNER)
        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", dup)
            on.openings.replace(hosted, 0)
        on.openings.put_out(hosted, "its process was killed")
        await on.until(lambda: actor.out)

        assert len(actor.runners) == 1

    play(scene, workers=1, runners=1)


def test_what_a_worker_was_to_be_told_is_given_back_when_it_ends_before_there_is_room(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, dup = dict[int, os.stat_result](), os.dup

    def noting(descriptor: int) -> int:
        copy = dup(descriptor)
        copied[copy] = os.fstat(copy)
        return copy

    def is_open(copy: int) -> bool:
        with suppress(OSError):
            return os.path.samestat(os.fstat(copy), copied[copy])
        return False

    async def scene(on: Stage) -> None:
        await on.until(lambda: all(actor.runners for actor in on.actors))
        full_for(monkeypatch, Word.RUNNER)
        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", noting)
            on.openings.replace(on.openings.hosted[0], 0)
        on.actors[0].kill()
        assert [is_open(copy) for copy in copied] == [True, True]
        await on.until(lambda: not any(map(is_open, copied)))

    play(scene, runners=1)


def test_with_other_settings_runners_are_replaced_once_all_workers_have_them(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        on.openings.opens_otherwise = True
        signal.raise_signal(signal.SIGHUP)
        await on.until(lambda: on.openings.retired)

        assert on.openings.retired == [("m", "1")]
        assert [(actor.number, actor.runners[-1]) for actor in on.living] == [
            (2, Met(2, 2, "m 1 0")),
            (3, Met(2, 0, "m 1 0")),
        ]

    play(scene, runners=1)


def test_a_reload_that_is_refused_leaves_runners_as_they_are(play: Callable[..., None], log: Log) -> None:
    async def scene(on: Stage) -> None:
        on.openings.opens_otherwise = True
        on.plays = when(Word.READY, 2, "fails")
        signal.raise_signal(signal.SIGHUP)
        await on.until(lambda: log.of("reload_refused"))

        assert (on.openings.heeded, on.openings.retired) == ([], [])

    play(scene, runners=1)


def test_a_service_whose_versions_are_not_open_yet_says_which(
    monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger
) -> None:
    reasons = list[str | None]()

    async def open_slowly(self: FakeOpenings, *of: Any) -> Hosted:
        reasons.append(starting[0].not_ready())
        return await fake_open(self, *of)

    def supervising(*arguments: Any, **options: Any) -> Supervisor:
        starting.append(Supervisor(*arguments, **options))
        return starting[0]

    async def main() -> None:
        async with stage(monkeypatch, logger, "1"):
            assert starting[0].not_ready() is None

    starting, fake_open = list[Supervisor](), FakeOpenings.open
    monkeypatch.setattr(FakeOpenings, "open", open_slowly)
    monkeypatch.setattr("tests.unit.server.actors.Supervisor", supervising)
    asyncio.run(main())

    assert reasons == ["starting; opening m"]


def test_the_series_of_a_version_are_given_up_five_minutes_after_its_end(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(on: Stage) -> None:
        RequestMetrics(on.actors[0].scoreboard.metrics).queue_wait(ModelLabel("m", "1")).observe(0.1)
        on.actors[0].kill()
        await on.settled(2)
        await on.rollouts.activate("m", "2")
        assert waits in on.supervisor.metrics()
        now = monotonic() + 301
        monkeypatch.setattr(rollouts, "monotonic", lambda: now)
        assert waits not in on.supervisor.metrics()

    waits = b'weighbridge_queue_wait_seconds_count{model="m",version="1"} 1.0'
    play(scene)


def test_a_worker_that_does_not_get_on_with_its_start_is_killed(
    play: Callable[..., None], log: Log, quick_ticks: float
) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.READY, 2, "nothing")
        on.actors[0].kill()
        await on.until(lambda: len(on.actors) == 4)
        await on.settled(2)

    play(scene, load_timeout=5 * quick_ticks)

    assert log.written("worker_died")[1]["reason"] == "did not get on with its start for 0.1 s"


def test_a_worker_may_take_as_long_for_each_of_its_models_as_one_may_take(
    play: Callable[..., None], quick_ticks: float
) -> None:
    async def scene(on: Stage) -> None:
        on.plays = when(Word.READY, 2, "nothing")
        on.actors[0].kill()
        await on.until(lambda: len(on.actors) == 3)
        starting = on.actors[2]

        def opens_a_model() -> float:
            starting.scoreboard.vitals.beats += 1
            return next(report.age_seconds for report in on.supervisor.workers() if report.pid == starting.pid)

        await on.until(lambda: opens_a_model() > 20 * quick_ticks)
        starting.come_up()
        await on.settled(2)

        assert on.living == on.actors[1:]

    play(scene, load_timeout=5 * quick_ticks)


def test_a_service_whose_worker_does_not_get_on_with_its_start_cannot_start(
    monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger, quick_ticks: float
) -> None:
    async def main() -> None:
        monkeypatch.setattr("tests.unit.server.actors.obeys", lambda *_: "nothing")
        await stage(monkeypatch, logger, "1", load_timeout=5 * quick_ticks).__aenter__()

    with pytest.raises(CannotStart, match=r"a worker did not get on with its start for 0.1 s; "):
        asyncio.run(main())


def test_a_worker_that_comes_up_is_given_its_share_of_the_connections_of_others(play: Callable[..., None]) -> None:
    async def scene(on: Stage) -> None:
        with ExitStack() as clients:
            async with one_starts(on) as starting:
                for _ in range(7):
                    clients.enter_context(socket.create_connection(on.address))
                await on.until(lambda: on.actors[1].connections == 7)
            await on.settled(2)
            await on.until(lambda: on.actors[1].surplus)

            assert (on.actors[1].surplus, starting.surplus) == (3, 0)

    play(scene)


STEPS = st.sampled_from(["activate 1", "activate 2", "activate 3", "rollback", "die"])
DEEDS = st.lists(st.sampled_from(["does"] * 6 + ["dies", "fails"]), max_size=30)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=8), deeds=DEEDS)
def test_whatever_fails_or_dies_all_workers_serve_what_was_decided_last(
    monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger, steps: list[str], deeds: list[str]
) -> None:
    async def main() -> None:
        async with stage(monkeypatch, logger, "1", "2", "3", workers=2) as on:
            script = iter(deeds)
            decided = "1"
            on.plays = lambda _, word: next(script, "does") if word in {Word.PREPARE, Word.COMMIT} else "does"
            for step in steps:
                name, _, version = step.partition(" ")
                with suppress(ModelRefused, NothingToRollBack):
                    if name == "die":
                        on.living[0].kill()
                    elif name == "rollback":
                        decided = (await on.rollouts.rollback("m")).live or ""
                    else:
                        decided = (await on.rollouts.activate("m", version)).live or ""
                await on.settled(2)

                assert [actor.live for actor in on.living] == [{"m": decided}, {"m": decided}]
                assert {name: placed.version for name, placed in on.rollouts.catalogue.live.items()} == {"m": decided}
                assert [hosted.version for hosted in on.openings.hosted] == [decided]
                rollout = on.repository.found["m"].rollout
                assert rollout is not None
                assert rollout.live == decided

    asyncio.run(main())

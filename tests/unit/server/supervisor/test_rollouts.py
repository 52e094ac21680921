"""What is decided on models, for one who serves whatever is decided."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from structlog.typing import FilteringBoundLogger

from tests.unit.log import Log
from tests.unit.server.fake_repository import FakeOpenings, FakeRepository
from tests.waiting import DEADLINE
from tests.waiting import until as until_in_time
from weighbridge.adapters.manifest import Options, Rollout
from weighbridge.adapters.repository import FoundModel, FoundVersion
from weighbridge.application.catalogue import Calls, ModelEntry, VersionEntry, VersionState
from weighbridge.domain.errors import ModelNotFound, ModelRefused, NothingToRollBack, VersionNotFound
from weighbridge.server.catalogue import Outcome, Stopping
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.process import RunnerProcess
from weighbridge.server.supervisor import rollouts as module
from weighbridge.server.supervisor.rollouts import CannotStart, Rollouts
from weighbridge.settings import Settings

BROKEN = FoundVersion(reason="models/m/2/a.json: expected the sha256 a, got b")
OTHER = FoundVersion(fingerprint="other")


def versions(rollouts: Rollouts) -> dict[str, str]:
    """What is live."""
    return {name: placed.version for name, placed in rollouts.catalogue.live.items()}


class FakeHosts:
    """One who serves what is decided."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts
        self.opened: list[tuple[str, str]] = []
        self.live: dict[str, str] = {}
        self.told: list[ModelEntry] = []
        self.connected: list[tuple[str, int]] = []
        self.out: list[str | None] = []
        self.refusal: str | None = None
        self.aborted = 0
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.on_commit: Callable[[], None] = lambda: None

    async def prepare(self, hosted: Hosted) -> None:
        self.opened.append((hosted.name, hosted.version))
        await self.may_open.wait()
        if self.refusal is not None:
            raise ModelRefused(self.refusal)

    async def commit(self, _hosted: Hosted) -> None:
        self.live = versions(self._rollouts)
        self.on_commit()

    def abort(self) -> None:
        self.aborted += 1

    def connect(self, hosted: Hosted, runner: RunnerProcess) -> None:
        self.connected.append((hosted.version, runner.instance))

    def put_out(self, hosted: Hosted) -> None:
        self.out.append(hosted.unavailable)

    def tell(self) -> None:
        self.told += [entry for name, entry in self._rollouts.catalogue.entries.items() if name != "default"]


class Operated:
    """Rollouts of a model m with the versions 1 and 2, of which 1 is live."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        self.repository, self.openings = FakeRepository(), FakeOpenings()
        self.repository.put("m", "1", "2", live="1")
        self.rollouts = Rollouts(self.repository, self.openings, Settings(), logger)
        self.hosts = FakeHosts(self.rollouts)

    async def start(self) -> None:
        """Start, as the service does."""
        async with self.rollouts.changing:
            await self.rollouts.start(self.hosts)

    async def reconcile(self) -> None:
        """Have the directory followed, and wait for that."""
        await self.rollouts.reconcile()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    @property
    def live(self) -> dict[str, str]:
        """What is live."""
        return versions(self.rollouts)

    @property
    def entry(self) -> ModelEntry:
        """What the catalogue says of the model."""
        return self.rollouts.catalogue.entries["m"]

    def run(self, scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start, and play a scene."""

        async def main() -> None:
            async with asyncio.timeout(DEADLINE):
                await self.start()
                await scene()

        with closing(self.openings):
            asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until a condition holds."""
    while not condition():
        await asyncio.wait({asyncio.ensure_future(asyncio.sleep(0))})


@pytest.fixture
def on(logger: FilteringBoundLogger) -> Operated:
    return Operated(logger)


# The start


def test_at_the_start_what_the_rollout_says_is_opened_and_live(on: Operated) -> None:
    on.repository.put("m", "1", "2", "10", live="2", previous="1")
    on.run(lambda: asyncio.sleep(0))

    assert on.openings.opened == [("m", "2")]
    assert on.live == {"m": "2"}
    assert on.entry == ModelEntry(
        "m",
        "2",
        "1",
        (
            VersionEntry("1", VersionState.AVAILABLE),
            VersionEntry("2", VersionState.LIVE),
            VersionEntry("10", VersionState.AVAILABLE),
        ),
        calls=Calls("inline", 0, requests_share_calls=True, call_seconds=0.001, row_seconds=0.0001),
    )


def test_without_a_rollout_the_highest_version_is_live(on: Operated) -> None:
    on.repository.put("m", "1", "2", "10")
    on.run(lambda: asyncio.sleep(0))

    assert on.live == {"m": "10"}


def test_only_the_live_version_is_needed_to_start(on: Operated) -> None:
    on.repository.change("m", "2", BROKEN)
    on.run(lambda: asyncio.sleep(0))

    assert on.entry.versions[1] == VersionEntry("2", VersionState.REFUSED, BROKEN.reason)


def test_a_model_without_versions_waits_for_one(on: Operated) -> None:
    on.repository.put("empty")

    async def scene() -> None:
        assert on.live == {"m": "1"}
        with pytest.raises(ModelRefused, match=r"^models/empty: expected a version, got none$"):
            await on.rollouts.reload("empty")
        on.repository.put("empty", "1")
        await on.reconcile()
        assert on.hosts.live == {"empty": "1", "m": "1"}

    on.run(scene)


def no_directory(repository: FakeRepository) -> None:
    repository.problem = "models: expected a directory, got nothing"


def wrong_rollout(repository: FakeRepository) -> None:
    repository.found["m"] = FoundModel(None, "models/m/rollout.toml: live: it is wrong", {"1": FoundVersion()})


def rollout_of_nothing(repository: FakeRepository) -> None:
    repository.put("m", "1", live="3")


def broken_version(repository: FakeRepository) -> None:
    repository.change("m", "1", BROKEN)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (no_directory, r"^WEIGHBRIDGE_MODELS: models: expected a directory, got nothing$"),
        (wrong_rollout, r"^models/m/rollout.toml: live: it is wrong$"),
        (rollout_of_nothing, r"^models/m/rollout.toml: there is no version 3$"),
        (broken_version, r"^models/m/2/a.json: expected the sha256 a, got b$"),
    ],
)
def test_a_service_whose_models_cannot_be_served_does_not_start(
    on: Operated, wrong: Callable[[FakeRepository], None], why: str
) -> None:
    wrong(on.repository)

    with pytest.raises(CannotStart, match=why):
        on.run(lambda: asyncio.sleep(0))


def test_a_service_whose_model_cannot_be_opened_does_not_start(on: Operated) -> None:
    on.openings.refused["1"] = "models/m/1: it hangs"

    with pytest.raises(CannotStart, match=r"^models/m/1: it hangs$"):
        on.run(lambda: asyncio.sleep(0))


def test_what_is_no_model_by_its_name_is_told(on: Operated, log: Log) -> None:
    on.repository.others = ["models/+: not a name"]
    on.run(lambda: asyncio.sleep(0))

    assert log.written("models_passed_over")[0]["reasons"] == on.repository.others


def test_a_start_that_is_stopped_ends_there(on: Operated) -> None:
    on.rollouts.stop()

    with pytest.raises(Stopping):
        on.run(lambda: asyncio.sleep(0))


async def opening(on: Operated, count: int) -> None:
    """Return when so many openings have begun."""
    await until(lambda: len(on.openings.opened) >= count)


def test_at_the_start_versions_are_opened_side_by_side_and_those_that_are_not_open_yet_are_named(
    on: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    on.repository.put("n", "1")
    on.openings.may_open.clear()

    async def main() -> None:
        starting = asyncio.ensure_future(on.start())
        await opening(on, 2)
        assert on.rollouts.opening == ["m", "n"]
        on.openings.may_open.set()
        await starting
        assert on.rollouts.opening == []

    asyncio.run(main())


def test_at_the_start_no_more_versions_are_opened_at_once_than_there_are_cores(
    on: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 1)
    on.repository.put("n", "1")
    on.openings.may_open.clear()

    async def main() -> None:
        starting = asyncio.ensure_future(on.start())
        await opening(on, 1)
        for _ in range(10):  # turns of the loop, in which another would begin
            await asyncio.sleep(0)
        assert on.openings.opened == [("m", "1")]
        assert on.rollouts.opening == ["m", "n"]
        on.openings.may_open.set()
        await starting
        assert on.openings.opened == [("m", "1"), ("n", "1")]

    asyncio.run(main())


def test_a_fault_of_whoever_opens_versions_is_none_of_the_models(on: Operated, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> Hosted:
        raise RuntimeError("a fault")

    monkeypatch.setattr(on.openings, "open", fail)

    with pytest.raises(RuntimeError, match="a fault"):
        on.run(lambda: asyncio.sleep(0))


# Operations


def test_an_activation_is_opened_prepared_written_and_served(on: Operated, log: Log) -> None:
    async def scene() -> None:
        assert await on.rollouts.activate("m", "2") == Outcome("m", "2", "1", persisted=True)
        assert on.openings.opened == [("m", "1"), ("m", "2")]
        assert on.hosts.opened == [("m", "2")]
        assert on.hosts.live == {"m": "2"}
        assert on.repository.found["m"].rollout == Rollout(live="2", previous="1")
        assert on.hosts.told[-1].live == "2"

    on.run(scene)

    assert [(line["model"], line["version"]) for line in log.written("model_live")] == [("m", "2")]


def test_what_is_live_already_is_only_written(on: Operated) -> None:
    on.repository.put("m", "1", "2")

    async def scene() -> None:
        assert await on.rollouts.activate("m", "2") == Outcome("m", "2", None, persisted=True)
        assert on.hosts.opened == []
        assert on.repository.found["m"].rollout == Rollout(live="2")

    on.run(scene)


def test_what_the_rollout_says_already_is_not_written_again(on: Operated) -> None:
    on.repository.put("m", "1", "2", live="1", instances=2)
    on.repository.read_only = True

    async def scene() -> None:
        assert await on.rollouts.activate("m", "1") == Outcome("m", "1", None, persisted=True)

    on.run(scene)


def test_where_nothing_can_be_written_an_activation_holds_all_the_same(on: Operated, log: Log) -> None:
    on.repository.read_only = True

    async def scene() -> None:
        assert await on.rollouts.activate("m", "2") == Outcome("m", "2", "1", persisted=False)
        await on.reconcile()
        assert on.hosts.live == {"m": "2"}
        await asyncio.to_thread(until_in_time, lambda: log.of("rollout_not_written"))
        assert "Read-only file system" in log.of("rollout_not_written")[0]["reason"]

    on.run(scene)


def test_what_cannot_be_opened_is_not_prepared_and_its_reason_stays(on: Operated) -> None:
    on.openings.refused["2"] = "models/m/2: it eats memory"

    async def scene() -> None:
        with pytest.raises(ModelRefused, match="it eats memory"):
            await on.rollouts.activate("m", "2")
        assert on.hosts.opened == []
        assert on.entry.reason == "models/m/2: it eats memory"
        assert on.entry.versions[1] == VersionEntry("2", VersionState.REFUSED, "models/m/2: it eats memory")
        assert on.hosts.told[-1] == on.entry

        on.repository.change("m", "2", OTHER)
        await on.reconcile()
        assert on.entry.reason is None
        assert on.entry.versions[1] == VersionEntry("2", VersionState.AVAILABLE)

    on.run(scene)


def test_what_is_broken_is_not_even_opened(on: Operated) -> None:
    on.repository.change("m", "2", BROKEN)

    async def scene() -> None:
        with pytest.raises(ModelRefused, match="expected the sha256 a, got b"):
            await on.rollouts.activate("m", "2")
        assert on.openings.opened == [("m", "1")]

    on.run(scene)


@pytest.mark.parametrize("operation", [lambda on: on.rollouts.activate("m", "2"), lambda on: on.rollouts.rollback("m")])
def test_with_a_broken_rollout_no_other_version_is_made_live(
    on: Operated, operation: Callable[[Operated], Coroutine[Any, Any, object]]
) -> None:
    on.repository.put("m", "1", "2", live="1", previous="2")

    async def scene() -> None:
        on.repository.found["m"] = replace(
            on.repository.found["m"], rollout=None, problem="models/m/rollout.toml: it is wrong"
        )
        with pytest.raises(ModelRefused, match=r"^models/m/rollout.toml: it is wrong$"):
            await operation(on)
        assert (on.entry.live, on.entry.reason) == ("1", "models/m/rollout.toml: it is wrong")

    on.run(scene)


def test_what_there_is_not_cannot_be_activated(on: Operated) -> None:
    async def scene() -> None:
        for name in ("n", "default"):
            with pytest.raises(ModelNotFound):
                await on.rollouts.activate(name, "1")
        with pytest.raises(VersionNotFound):
            await on.rollouts.activate("m", "3")
        with pytest.raises(ModelNotFound):
            await on.rollouts.reload("n")
        with pytest.raises(ModelNotFound):
            await on.rollouts.rollback("n")

    on.run(scene)


def test_a_rollback_goes_to_and_fro(on: Operated) -> None:
    async def scene() -> None:
        await on.rollouts.activate("m", "2")
        assert await on.rollouts.rollback("m") == Outcome("m", "1", "2", persisted=True)
        assert await on.rollouts.rollback("m") == Outcome("m", "2", "1", persisted=True)
        assert on.repository.found["m"].rollout == Rollout(live="2", previous="1")

    on.run(scene)


def test_without_another_version_that_was_live_there_is_no_rollback(on: Operated) -> None:
    async def scene() -> None:
        with pytest.raises(NothingToRollBack):
            await on.rollouts.rollback("m")
        await on.rollouts.activate("m", "2")
        on.repository.put("m", "2", live="2", previous="1")
        with pytest.raises(NothingToRollBack):
            await on.rollouts.rollback("m")
        del on.repository.found["m"]
        with pytest.raises(NothingToRollBack):
            await on.rollouts.rollback("m")
        with pytest.raises(VersionNotFound):
            await on.rollouts.activate("m", "2")

    on.run(scene)


def test_a_reload_opens_what_has_changed_and_nothing_else(on: Operated) -> None:
    async def scene() -> None:
        assert await on.rollouts.reload("m") == Outcome("m", "1", None, persisted=True)
        assert on.hosts.opened == []
        on.repository.change("m", "1", OTHER)
        assert await on.rollouts.reload("m") == Outcome("m", "1", None, persisted=True)
        assert on.hosts.opened == [("m", "1")]
        on.repository.put("m", "1", "2", live="2")
        assert await on.rollouts.reload("m") == Outcome("m", "2", "1", persisted=True)

    on.run(scene)


def test_the_embedded_model_is_always_what_it_is(on: Operated) -> None:
    embedded = Outcome("default", "embedded", None, persisted=True)

    async def scene() -> None:
        assert await on.rollouts.activate("default", "embedded") == embedded
        assert await on.rollouts.reload("default") == embedded
        with pytest.raises(NothingToRollBack):
            await on.rollouts.rollback("default")

    on.run(scene)


def test_an_operation_that_is_under_way_when_the_service_ends_is_undone(on: Operated) -> None:
    async def scene() -> None:
        on.hosts.may_open.clear()
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        while not on.hosts.opened:
            await asyncio.wait({activation}, timeout=0.001)
        on.rollouts.stop()
        with pytest.raises(Stopping):
            await activation
        await on.reconcile()
        assert on.hosts.aborted == 1
        assert on.openings.retired == [("m", "2")]
        assert on.live == {"m": "1"}

    on.run(scene)


def test_what_is_decided_is_not_undone_halfway(on: Operated) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        writing.set()
        go_on.wait(DEADLINE)

    async def scene() -> None:
        on.repository.before_writing = wait
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await asyncio.to_thread(writing.wait, DEADLINE)
        on.rollouts.stop()
        go_on.set()
        assert await activation == Outcome("m", "2", "1", persisted=True)
        assert on.hosts.live == {"m": "2"}

    on.run(scene)


def test_what_is_decided_for_one_model_decides_nothing_for_the_next(on: Operated) -> None:
    on.repository.put("n", "1", live="1")

    async def scene() -> None:
        on.repository.put("m", "1", "2", live="2")
        on.repository.put("n", "1", "2", live="2")
        on.hosts.on_commit = on.rollouts.stop
        await on.reconcile()
        assert sorted(on.hosts.live.values()) == ["1", "2"]
        assert len(on.hosts.opened) == 1

    on.run(scene)


# Side by side


def test_an_operation_looks_at_its_own_model_only(on: Operated) -> None:
    async def scene() -> None:
        on.repository.scanned.clear()
        await on.rollouts.activate("m", "2")
        await on.rollouts.rollback("m")
        await on.rollouts.reload("m")
        assert on.repository.scanned == ["m"] * 3

    on.run(scene)


def test_a_version_that_hangs_while_it_is_opened_holds_up_no_other_model(on: Operated) -> None:
    on.repository.put("n", "1", "2", live="2", previous="1")

    async def scene() -> None:
        on.openings.hang.add("m")
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await opening(on, 3)
        assert await on.rollouts.rollback("n") == Outcome("n", "1", "2", persisted=True)
        on.openings.hang.clear()
        assert await activation == Outcome("m", "2", "1", persisted=True)
        assert on.hosts.live == {"m": "2", "n": "1"}

    on.run(scene)


def test_of_one_model_operations_do_not_interleave(on: Operated) -> None:
    async def scene() -> None:
        on.openings.hang.add("m")
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await opening(on, 2)
        rollback = asyncio.ensure_future(on.rollouts.rollback("m"))
        await asyncio.wait({rollback}, timeout=0)
        assert on.repository.scanned == [None, "m"]
        on.openings.hang.clear()
        assert await activation == Outcome("m", "2", "1", persisted=True)
        assert await rollback == Outcome("m", "1", "2", persisted=True)

    on.run(scene)


def test_all_prepare_one_version_at_a_time(on: Operated) -> None:
    on.repository.put("n", "1", "2", live="1")

    async def scene() -> None:
        on.hosts.may_open.clear()
        activations = [asyncio.ensure_future(on.rollouts.activate(name, "2")) for name in ("m", "n")]
        await until(lambda: len(on.openings.hosted) == 4 and on.hosts.opened)
        assert len(on.hosts.opened) == 1
        on.hosts.may_open.set()
        await asyncio.gather(*activations)
        assert on.hosts.live == {"m": "2", "n": "2"}

    on.run(scene)


def test_what_waits_to_be_prepared_when_the_service_ends_is_retired_and_leaves_alone_what_others_prepare(
    on: Operated,
) -> None:
    async def scene() -> None:
        async with on.rollouts.changing:
            activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
            await until(lambda: len(on.openings.hosted) == 2)
            on.rollouts.stop()
            with pytest.raises(Stopping):
                await activation
        assert on.openings.retired == [("m", "2")]
        assert on.hosts.aborted == 0

    on.run(scene)


def test_an_operation_waits_for_the_start(on: Operated) -> None:
    async def main() -> None:
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await asyncio.wait({activation}, timeout=0)
        await on.start()
        assert (await activation).live == "2"

    asyncio.run(main())


def test_a_model_that_hangs_while_it_is_followed_holds_up_no_other(on: Operated) -> None:
    async def scene() -> None:
        on.openings.hang.add("m")
        on.repository.put("m", "1", "2", live="2")
        await on.rollouts.reconcile()
        await opening(on, 2)
        on.repository.put("n", "1")
        await on.rollouts.reconcile()
        await until(lambda: on.hosts.live == {"m": "1", "n": "1"})
        on.openings.hang.clear()
        await until(lambda: on.hosts.live == {"m": "2", "n": "1"})

    on.run(scene)


def test_a_change_while_a_model_is_followed_is_followed_next(on: Operated) -> None:
    async def scene() -> None:
        on.openings.hang.add("m")
        on.repository.put("m", "1", "2", live="2")
        await on.rollouts.reconcile()
        await opening(on, 2)
        on.repository.put("m", "1", "2", "3", live="3")
        for _ in range(2):
            await on.rollouts.reconcile()
        on.openings.hang.clear()
        await until(lambda: on.hosts.live == {"m": "3"})
        assert on.openings.opened == [("m", "1"), ("m", "2"), ("m", "3")]

    on.run(scene)


def test_one_more_model_is_followed_at_a_time_than_there_are_cores_and_operators_need_not_wait(
    monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger
) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 1)
    on = Operated(logger)

    async def scene() -> None:
        on.openings.hang |= {"n", "o"}
        for name in ("n", "o", "p"):
            on.repository.put(name, "1")
        await on.rollouts.reconcile()
        await opening(on, 3)
        assert await on.rollouts.activate("p", "1") == Outcome("p", "1", None, persisted=True)
        assert sorted(on.openings.opened) == [("m", "1"), ("n", "1"), ("o", "1"), ("p", "1")]
        on.openings.hang.clear()
        await until(lambda: on.hosts.live == dict.fromkeys("mnop", "1"))

    on.run(scene)


def test_a_model_that_is_gone_again_when_it_would_be_followed_is_none(
    on: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = on.repository.scan

    def scan_late(only: str | None = None) -> dict[str, FoundModel]:
        if only is not None:
            on.repository.found.pop(only)
        return scan(only)

    async def scene() -> None:
        on.repository.put("n", "1")
        monkeypatch.setattr(on.repository, "scan", scan_late)
        await on.reconcile()
        assert [*on.rollouts.catalogue.entries] == ["default", "m"]

    on.run(scene)


# What was opened


def test_what_not_all_can_serve_is_retired_and_changes_nothing(on: Operated) -> None:
    on.hosts.refusal = "models/m/2: a worker has no file descriptor left"

    async def scene() -> None:
        with pytest.raises(ModelRefused, match=r"no file descriptor left$"):
            await on.rollouts.activate("m", "2")
        assert on.openings.retired == [("m", "2")]
        assert on.hosts.aborted == 1
        assert (on.live, on.repository.found["m"].rollout) == ({"m": "1"}, Rollout(live="1"))

    on.run(scene)


def test_a_version_of_which_a_runner_dies_before_it_is_live_is_refused(on: Operated) -> None:
    on.openings.runners = 1

    async def scene() -> None:
        on.hosts.may_open.clear()
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        while not on.hosts.opened:
            await asyncio.wait({activation}, timeout=0.001)
        on.openings.hosted[1].crashes += 1
        on.hosts.may_open.set()
        with pytest.raises(ModelRefused, match=r"^models/m/2: the process that opened it has ended$"):
            await activation
        assert (on.live, on.openings.retired) == ({"m": "1"}, [("m", "2")])

    on.run(scene)


def test_what_was_live_is_asked_until_all_serve_its_successor(on: Operated) -> None:
    async def scene() -> None:
        on.hosts.on_commit = lambda: retired.extend(on.openings.retired)
        await on.rollouts.activate("m", "2")
        assert retired == []
        assert on.openings.retired == [("m", "1")]

    retired: list[tuple[str, str]] = []
    on.run(scene)


def test_whoever_starts_to_serve_is_told_of_the_runners_of_all_that_is_live(on: Operated) -> None:
    async def scene() -> None:
        assert on.rollouts.hosted == []  # workers call it
        on.openings.runners = 2
        await on.rollouts.activate("m", "2")
        assert [(hosted.version, len(hosted.ready)) for hosted in on.rollouts.hosted] == [("2", 2)]

    on.run(scene)


def test_a_runner_that_takes_the_place_of_another_is_told_to_all(on: Operated) -> None:
    on.openings.runners = 2

    async def scene() -> None:
        on.openings.replace(on.openings.hosted[0], 1)
        assert on.hosts.connected == [("1", 1)]

    on.run(scene)


def test_a_version_that_is_out_of_service_is_live_and_everyone_knows_why_it_does_not_answer(on: Operated) -> None:
    on.openings.runners = 1

    async def scene() -> None:
        on.openings.put_out(on.openings.hosted[0], "its process was killed")
        assert on.hosts.out == ["its process was killed"]
        assert on.entry.versions[0] == VersionEntry("1", VersionState.LIVE, "its process was killed")
        assert on.hosts.told[-1] == on.entry
        on.openings.replace(on.openings.hosted[0], 0)
        assert on.hosts.told[-1].versions[0] == VersionEntry("1", VersionState.LIVE)

    on.run(scene)


REVIVALS = [lambda on: on.rollouts.activate("m", "1"), lambda on: on.rollouts.reload("m")]


@pytest.mark.parametrize("operation", REVIVALS)
def test_a_live_version_that_is_out_of_service_is_started_anew_when_it_is_activated_or_reloaded(
    on: Operated, operation: Callable[[Operated], Coroutine[Any, Any, Outcome]]
) -> None:
    on.openings.runners = 1

    async def scene() -> None:
        on.openings.put_out(on.openings.hosted[0], "its process was killed")
        assert await operation(on) == Outcome("m", "1", None, persisted=True)
        assert on.hosts.connected == [("1", 0)]
        assert on.entry.versions[0] == VersionEntry("1", VersionState.LIVE)
        assert (on.hosts.opened, on.openings.retired) == ([], [])

    on.run(scene)


@pytest.mark.parametrize("operation", REVIVALS)
def test_an_operation_that_cannot_start_it_anew_is_refused(
    on: Operated, operation: Callable[[Operated], Coroutine[Any, Any, Outcome]]
) -> None:
    on.openings.runners = 1

    async def scene() -> None:
        on.openings.put_out(on.openings.hosted[0], "its process was killed")
        on.openings.refused["1"] = "models/m/1: it dies again"
        with pytest.raises(ModelRefused, match="it dies again"):
            await operation(on)
        assert (on.entry.live, on.entry.reason) == ("1", "models/m/1: it dies again")

    on.run(scene)


def test_the_catalogue_says_how_what_runners_answer_for_is_called(on: Operated) -> None:
    on.openings.runners = 2

    async def scene() -> None:
        assert on.entry.calls == Calls("runner", 2, requests_share_calls=True, call_seconds=0.001, row_seconds=0.0001)

    on.run(scene)


def test_whoever_opens_versions_is_told_of_runners_and_workers_and_tells_of_runners(on: Operated) -> None:
    on.openings.runners = 2

    async def scene() -> None:
        on.rollouts.broken(1, 0, "it sent a pickle")
        on.rollouts.clear(3)
        assert (on.openings.blamed, on.openings.cleared) == ([(1, 0, "it sent a pickle")], [3])
        assert [(report.model, report.version, report.runner) for report in on.rollouts.runners()] == [
            ("m", "1", 0),
            ("m", "1", 1),
        ]

    on.run(scene)


# The embedded model


def test_the_embedded_model_is_live_unless_the_settings_say_otherwise(on: Operated) -> None:
    without = Settings(weights="off", models="models")

    async def scene() -> None:
        assert "default" in on.rollouts.catalogue.entries
        await heed(on, without)
        assert "default" not in on.rollouts.catalogue.entries
        for operation in (
            on.rollouts.activate("default", "embedded"),
            on.rollouts.rollback("default"),
            on.rollouts.reload("default"),
        ):
            with pytest.raises(ModelNotFound):
                await operation
        await heed(on, Settings())
        assert "default" in on.rollouts.catalogue.entries

    on.run(scene)


# New settings


async def heed(on: Operated, settings: Settings) -> None:
    """Have new settings heeded, as the supervisor does."""
    await on.rollouts.heed(settings)


def test_runners_whose_settings_are_unchanged_stay(on: Operated) -> None:
    on.openings.runners = 1

    async def scene() -> None:
        settings = Settings(load_memory_bytes=2**30)
        await heed(on, settings)
        assert on.openings.heeded == [settings]
        assert on.repository.most_bytes == 2**30
        assert (on.hosts.opened, on.openings.retired) == ([], [])

    on.run(scene)


def test_with_other_settings_what_runners_answer_for_is_opened_anew_one_version_at_a_time(on: Operated) -> None:
    on.openings.runners, on.openings.opens_otherwise = 1, True
    on.repository.put("n", "1")
    on.repository.put("empty")

    async def scene() -> None:
        on.openings.runners = 0
        on.repository.put("inline", "1")
        await on.reconcile()
        on.hosts.opened.clear()
        on.hosts.on_commit = lambda: seen.append([*on.hosts.opened])
        on.openings.runners = 1
        await heed(on, Settings())
        assert seen == [[("m", "1")], [("m", "1"), ("n", "1")]]
        assert on.openings.retired == [("m", "1"), ("n", "1")]

    seen: list[list[tuple[str, str]]] = []
    on.run(scene)


def test_what_was_opened_with_the_old_settings_when_it_is_to_be_served_is_opened_once_more(on: Operated) -> None:
    on.openings.opens_otherwise = True

    async def scene() -> None:
        async with on.rollouts.changing:
            activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
            await until(lambda: len(on.openings.hosted) == 2)
            await heed(on, Settings())
        assert await activation == Outcome("m", "2", "1", persisted=True)
        assert on.openings.opened == [("m", "1"), ("m", "2"), ("m", "2")]
        assert on.openings.retired == [("m", "2"), ("m", "1")]
        assert on.hosts.aborted == 0

    on.run(scene)


def test_what_is_replaced_before_it_is_its_turn_is_not_opened_anew(on: Operated) -> None:
    on.openings.runners, on.openings.opens_otherwise = 1, True

    async def scene() -> None:
        on.openings.hang.add("m")
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await opening(on, 2)
        heeding = asyncio.ensure_future(heed(on, Settings()))
        await until(lambda: on.openings.heeded)
        on.openings.hang.clear()
        await asyncio.gather(activation, heeding)
        assert on.hosts.opened == [("m", "2")]

    on.run(scene)


def test_what_cannot_be_opened_with_the_new_settings_serves_on_with_the_old(on: Operated, log: Log) -> None:
    on.openings.runners, on.openings.opens_otherwise = 1, True

    async def scene() -> None:
        on.openings.refused["1"] = "models/m/1: it needs more memory"
        await heed(on, Settings())
        assert on.openings.retired == []
        assert on.rollouts.hosted == on.openings.hosted
        assert on.entry.versions[0].state is VersionState.LIVE

    on.run(scene)

    assert [line["reason"] for line in log.written("model_refused")] == ["models/m/1: it needs more memory"]


# What is found in the directory


def test_a_change_that_an_operation_has_followed_meanwhile_is_followed_no_more(on: Operated) -> None:
    async def scene() -> None:
        on.repository.put("m", "1", "2", live="2")
        await on.rollouts.reload("m")
        on.rollouts._follow_soon("m")
        await on.reconcile()

    on.run(scene)

    assert on.live == {"m": "2"}
    assert len(on.openings.opened) == 2


def test_a_rollout_written_by_hand_is_followed(on: Operated) -> None:
    async def scene() -> None:
        on.repository.put("m", "1", "2", live="2")
        await on.reconcile()
        assert on.hosts.live == {"m": "2"}
        assert on.entry.previous == "1"

    on.run(scene)


def test_a_rollout_written_by_hand_is_followed_whatever_is_refused_meanwhile(on: Operated) -> None:
    async def scene() -> None:
        on.repository.put("m", "1", "2", live="2")
        with pytest.raises(VersionNotFound):
            await on.rollouts.activate("m", "9")
        await on.reconcile()
        assert on.hosts.live == {"m": "2"}

    on.run(scene)


def test_what_could_not_be_written_holds_until_the_directory_says_something_else(on: Operated) -> None:
    on.repository.read_only = True

    async def scene() -> None:
        await on.rollouts.activate("m", "2")
        on.repository.put("m", "1", "2", "3", live="1")
        await on.reconcile()
        assert on.hosts.live == {"m": "2"}
        there = on.repository.found.pop("m")
        await on.reconcile()
        on.repository.found["m"] = there
        await on.reconcile()
        assert (on.hosts.live, on.entry.reason) == ({"m": "2"}, None)
        on.repository.put("m", "1", "2", "3", live="3")
        await on.reconcile()
        assert on.hosts.live == {"m": "3"}
        on.repository.put("m", "1", "2", "3", live="1")
        await on.reconcile()
        assert on.hosts.live == {"m": "1"}

    on.run(scene)


def test_a_higher_version_is_followed_where_no_rollout_says_otherwise(on: Operated) -> None:
    on.repository.put("m", "1")

    async def scene() -> None:
        on.repository.put("m", "1", "2")
        await on.reconcile()
        assert on.hosts.live == {"m": "2"}
        assert on.repository.found["m"].rollout is None

    on.run(scene)


def test_changed_options_of_the_live_version_have_it_opened_anew(on: Operated) -> None:
    async def scene() -> None:
        on.repository.put("m", "1", "2", live="1", threads=2)
        await on.reconcile()
        assert on.hosts.opened == [("m", "1")]
        assert on.hosts.live == {"m": "1"}

    on.run(scene)


def test_changed_options_of_another_version_change_nothing_that_is_served(on: Operated) -> None:
    async def scene() -> None:
        on.repository.put("m", "1", "2", live="1", versions={"2": Options(threads=2)})
        await on.reconcile()
        assert on.hosts.opened == []

    on.run(scene)


def test_a_version_that_was_refused_is_available_again_with_other_options(on: Operated) -> None:
    on.openings.refused["2"] = "models/m/2: it needs more memory"

    async def scene() -> None:
        with pytest.raises(ModelRefused):
            await on.rollouts.activate("m", "2")
        on.repository.put("m", "1", "2", live="1", versions={"2": Options(memory=2**30)})
        await on.reconcile()
        assert on.entry.versions[1] == VersionEntry("2", VersionState.AVAILABLE)

    on.run(scene)


def test_a_new_model_is_served(on: Operated) -> None:
    async def scene() -> None:
        on.repository.put("n", "1")
        await on.reconcile()
        assert on.hosts.live == {"m": "1", "n": "1"}

    on.run(scene)


def test_what_cannot_be_followed_is_tried_again_only_when_it_changes(on: Operated, log: Log) -> None:
    on.openings.refused["2"] = "models/m/2: it is broken"

    async def scene() -> None:
        on.repository.put("m", "1", "2", live="2")
        for _ in range(3):
            await on.reconcile()
        assert on.entry.reason == "models/m/2: it is broken"
        assert on.live == {"m": "1"}
        on.openings.refused.clear()
        on.repository.change("m", "2", OTHER)
        await on.reconcile()
        assert on.hosts.live == {"m": "2"}

    on.run(scene)

    assert len(log.written("model_refused")) == 1


def test_a_live_version_that_is_broken_by_now_serves_on(on: Operated) -> None:
    async def scene() -> None:
        whole = on.repository.found["m"]
        on.repository.change("m", "1", BROKEN)
        await on.reconcile()
        assert on.entry.versions[0] == VersionEntry("1", VersionState.LIVE, BROKEN.reason)
        assert on.entry.reason == BROKEN.reason
        on.repository.found["m"] = whole
        await on.reconcile()
        assert on.entry.reason is None
        assert on.hosts.opened == []

    on.run(scene)


def test_a_model_that_is_gone_serves_on(on: Operated, log: Log) -> None:
    async def scene() -> None:
        del on.repository.found["m"]
        for _ in range(2):
            await on.reconcile()
        assert on.live == {"m": "1"}
        assert on.entry == replace(on.entry, versions=(VersionEntry("1", VersionState.LIVE),))
        with pytest.raises(ModelRefused, match=r"^models/m: expected a directory, got nothing$"):
            await on.rollouts.reload("m")

    on.run(scene)

    assert len(log.written("model_gone")) == 1


def test_a_directory_that_nobody_can_be_had_to_look_at_is_looked_at_the_next_time(
    on: Operated, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scene() -> None:
        on.repository.put("m", "1", "2", live="2")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            await on.reconcile()
            with pytest.raises(ModelRefused, match=r"scanning the directory failed: .*new thread$"):
                await on.rollouts.reload("m")
        assert on.live == {"m": "1"}
        await on.reconcile()
        assert on.live == {"m": "2"}

    on.run(scene)

    assert len(log.written("models_unreadable")) == 1


def test_a_directory_that_is_gone_changes_nothing(on: Operated, log: Log) -> None:
    async def scene() -> None:
        on.repository.problem = "models: expected a directory, got nothing"
        for _ in range(2):
            await on.reconcile()
        assert on.live == {"m": "1"}

    on.run(scene)

    assert [line["reason"] for line in log.written("models_unreadable")] == [
        "models: expected a directory, got nothing"
    ]


# What is counted


def test_operations_are_counted_by_how_they_end(on: Operated) -> None:
    on.openings.refused["3"] = "models/m/3: it is broken"
    on.repository.put("m", "1", "2", "3", live="1")

    async def scene() -> None:
        await on.rollouts.activate("m", "2")
        with pytest.raises(ModelRefused):
            await on.rollouts.activate("m", "3")
        await on.rollouts.rollback("m")
        await on.rollouts.reload("m")
        await on.reconcile()
        on.repository.put("m", "1", "2", live="2")
        await on.reconcile()
        with pytest.raises(ModelNotFound):
            await on.rollouts.activate("made-up", "1")

    on.run(scene)
    info, operations = on.rollouts.metrics()

    assert [tuple(sample.labels.values()) for sample in info.samples] == [("default", "embedded"), ("m", "2")]
    assert {tuple(sample.labels.values()): sample.value for sample in operations.samples} == {
        ("m", "activate", "success"): 1,
        ("m", "activate", "refused"): 1,
        ("m", "rollback", "success"): 1,
        ("m", "rollback", "refused"): 0,
        ("m", "reload", "success"): 1,
        ("m", "reload", "refused"): 0,
        ("m", "watch", "success"): 1,
        ("m", "watch", "refused"): 0,
    }


def test_an_operation_goes_on_when_nobody_waits_for_it_any_more(on: Operated) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        writing.set()
        go_on.wait(DEADLINE)

    async def scene() -> None:
        on.repository.before_writing = wait
        activation = asyncio.ensure_future(on.rollouts.activate("m", "2"))
        await asyncio.to_thread(writing.wait, DEADLINE)
        activation.cancel()
        await asyncio.wait({activation})
        go_on.set()
        await on.reconcile()
        assert on.hosts.live == {"m": "2"}

    on.run(scene)


def test_a_version_is_told_of_once_when_it_has_not_been_live_for_five_minutes(
    on: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)

    async def scene() -> None:
        nonlocal now
        await on.rollouts.activate("m", "2")
        now += 300
        assert on.rollouts.forgotten() == []
        now += 1
        assert on.rollouts.forgotten() == [("m", "1")]
        assert on.rollouts.forgotten() == []

    on.run(scene)


def test_a_version_that_is_live_again_by_then_is_not_told_of(on: Operated, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)

    async def scene() -> None:
        nonlocal now
        await on.rollouts.activate("m", "2")
        await on.rollouts.activate("m", "1")
        now += 301
        assert on.rollouts.forgotten() == [("m", "2")]

    on.run(scene)


# What answers requests goes first


@pytest.mark.parametrize("operation", [lambda on: on.rollouts.reload("m"), lambda on: on.reconcile()])
def test_who_looks_at_the_directory_while_the_service_runs_gives_way(
    on: Operated, operation: Callable[[Operated], Coroutine[Any, Any, object]]
) -> None:
    async def scene() -> None:
        on.repository.scanned_under = None
        await operation(on)
        assert on.repository.scanned_under == os.SCHED_BATCH

    on.run(scene)

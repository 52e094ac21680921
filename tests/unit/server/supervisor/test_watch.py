"""The directory of models as it changes, by a real watch."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sized
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import watchfiles
from structlog.typing import FilteringBoundLogger

from tests.unit.log import Log
from tests.waiting import DEADLINE, until
from weighbridge.server.supervisor import watch
from weighbridge.server.supervisor.watch import watching
from weighbridge.settings import Settings


class Changes:
    """How often something has changed."""

    def __init__(self) -> None:
        self.count = 0

    async def changed(self) -> None:
        self.count += 1

    async def more(self, than: int) -> None:
        """Until there are more."""
        while self.count <= than:
            await asyncio.wait({asyncio.ensure_future(asyncio.sleep(0.005))})


@pytest.fixture
def during(
    logger: FilteringBoundLogger, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Settings, Callable[[Changes], Coroutine[Any, Any, None]]], Changes]:
    """Plays a scene while a directory is watched."""
    monkeypatch.setattr(watch, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(watch, "_QUIET_MS", 10)
    monkeypatch.setattr(watch, "_POLL_SECONDS", 0.01)

    def during(settings: Settings, scene: Callable[[Changes], Coroutine[Any, Any, None]]) -> Changes:
        changes = Changes()

        async def main() -> None:
            async with asyncio.timeout(DEADLINE), watching(settings, changes.changed, lambda: logger):
                await scene(changes)

        asyncio.run(main())
        return changes

    return during


During = Callable[[Settings, Callable[[Changes], Coroutine[Any, Any, None]]], Changes]


@pytest.mark.parametrize("how", ["events", "poll"])
def test_a_change_anywhere_below_the_directory_is_told(during: During, tmp_path: Path, how: Any) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)

    async def scene(changes: Changes) -> None:
        await changes.more(0)
        for content in ("a", "ab"):
            seen = changes.count
            (version / "model.toml").write_text(content)
            await changes.more(seen)

    during(Settings(models=str(tmp_path), models_watch=how), scene)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directory, once for each time that one begins to watch it."""
    looks, watch_one = list[str](), watch._watch_one

    async def watch_and_count(directory: str, changed: Callable[[], Coroutine[Any, Any, None]]) -> None:
        looks.append(directory)
        await watch_one(directory, changed)

    monkeypatch.setattr(watch, "_watch_one", watch_and_count)
    return looks


async def more(looks: Sized, than: int) -> None:
    """Until there are more."""
    while len(looks) <= than:
        await asyncio.wait({asyncio.ensure_future(asyncio.sleep(0.005))})


def test_a_directory_that_goes_and_comes_back_is_watched_again(
    during: During, log: Log, tmp_path: Path, looks: list[str]
) -> None:
    models = tmp_path / "models"
    models.mkdir()

    async def scene(changes: Changes) -> None:
        await changes.more(0)
        models.rename(tmp_path / "elsewhere")
        await asyncio.to_thread(until, lambda: log.of("models_not_watched"))
        seen = changes.count
        await more(looks, than=3)  # it is told once, however often one looks
        models.mkdir()
        await changes.more(seen)
        seen = changes.count
        (models / "m").mkdir()
        await changes.more(seen)
        [line] = log.of("models_not_watched")
        assert "No such file or directory" in line["reason"]

    during(Settings(models=str(models)), scene)


def test_a_directory_that_is_replaced_is_watched_in_the_place_of_the_old_one(during: During, tmp_path: Path) -> None:
    models, other = tmp_path / "models", tmp_path / "other"
    models.mkdir()
    other.mkdir()
    link = tmp_path / "current"
    link.symlink_to(models)

    async def scene(changes: Changes) -> None:
        await changes.more(0)
        seen = changes.count
        (tmp_path / "next").symlink_to(other)
        (tmp_path / "next").rename(link)
        await changes.more(seen)
        seen = changes.count
        (other / "m").mkdir()
        await changes.more(seen)

    during(Settings(models=str(link)), scene)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError("may not be read"), "may not be read"),
        (ExceptionGroup("unhandled", [RuntimeError("no UTF-8")]), "no UTF-8"),
    ],
)
def test_a_directory_in_which_anything_cannot_be_watched_is_polled_until_it_can(
    during: During, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    awatch, fails = watchfiles.awatch, True

    async def watch_or_fail(*paths: str, **options: Any) -> AsyncGenerator[set[watchfiles.main.FileChange], None]:
        if fails:
            raise error
        async with aclosing(awatch(*paths, **options)) as watched:
            while True:
                yield await anext(watched)

    async def scene(changes: Changes) -> None:
        nonlocal fails
        await changes.more(3)
        fails = False
        await changes.more(changes.count)
        seen = changes.count
        (tmp_path / "m").mkdir()
        await changes.more(seen)

    monkeypatch.setattr(watchfiles, "awatch", watch_or_fail)
    during(Settings(models=str(tmp_path)), scene)

    assert [line["reason"] for line in log.written("models_not_watched")] == [reason]


def test_nothing_is_told_while_nothing_changes(during: During, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    awatch, seen = watchfiles.awatch, list[set[watchfiles.main.FileChange]]()

    async def watch_and_note(*paths: str, **options: Any) -> AsyncGenerator[set[watchfiles.main.FileChange], None]:
        async with aclosing(awatch(*paths, **options)) as watched:
            while True:
                seen.append(await anext(watched))
                yield seen[-1]

    async def scene(changes: Changes) -> None:
        await more(seen, than=3)
        assert (changes.count, set().union(*seen)) == (1, set())

    monkeypatch.setattr(watchfiles, "awatch", watch_and_note)
    during(Settings(models=str(tmp_path)), scene)


def test_a_directory_with_another_in_it_that_may_be_read_from_now_on_is_watched_anew(
    during: During, tmp_path: Path, looks: list[str]
) -> None:
    (tmp_path / "m").mkdir(mode=0)

    async def scene(changes: Changes) -> None:
        await changes.more(0)
        (tmp_path / "m").chmod(0o755)
        await more(looks, than=1)

    during(Settings(models=str(tmp_path)), scene)


@pytest.mark.parametrize("settings", [Settings(), Settings(models="anywhere", models_watch="off")])
def test_nothing_is_watched_where_nothing_is_to_be(during: During, settings: Settings) -> None:
    async def scene(_changes: Changes) -> None:
        assert len(asyncio.all_tasks()) == 1

    assert during(settings, scene).count == 0

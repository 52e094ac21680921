"""The directory of models as it changes, by a real watch."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
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


def test_a_directory_that_goes_and_comes_back_is_watched_again(
    during: During, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, looks, watch_one = tmp_path / "models", list[str](), watch._watch_one
    models.mkdir()

    async def watch_and_count(directory: str, changed: Callable[[], Coroutine[Any, Any, None]]) -> None:
        looks.append(directory)
        await watch_one(directory, changed)

    monkeypatch.setattr(watch, "_watch_one", watch_and_count)

    async def scene(changes: Changes) -> None:
        await changes.more(0)
        models.rename(tmp_path / "elsewhere")
        await asyncio.to_thread(until, lambda: log.of("models_not_watched"))
        seen = changes.count
        while len(looks) < 4:  # it is told once, however often one looks
            await asyncio.wait({asyncio.ensure_future(asyncio.sleep(0.005))})
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


@pytest.mark.parametrize("settings", [Settings(), Settings(models="anywhere", models_watch="off")])
def test_nothing_is_watched_where_nothing_is_to_be(during: During, settings: Settings) -> None:
    async def scene(_changes: Changes) -> None:
        assert len(asyncio.all_tasks()) == 1

    assert during(settings, scene).count == 0

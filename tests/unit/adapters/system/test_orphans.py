"""Children of the test's own process, as if that were the first one of a container."""

import asyncio
import os
from collections.abc import Callable

import pytest

from tests.waiting import DEADLINE
from weighbridge.adapters.system import orphans
from weighbridge.adapters.system.orphans import reaping


@pytest.fixture
def ended() -> Callable[[], int]:
    """Gives a child that has ended, and was not waited for."""

    def ended() -> int:
        pid = os.posix_spawn("/bin/true", ["true"], {})
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    return ended


def bury(pid: int) -> None:
    assert os.waitpid(pid, 0) == (pid, 0)


def is_zombie(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while is_zombie(pid):
            await asyncio.wait({asyncio.ensure_future(asyncio.sleep(0))})


def test_the_first_process_reaps_all_but_its_own(monkeypatch: pytest.MonkeyPatch, ended: Callable[[], int]) -> None:
    monkeypatch.setattr(orphans, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    strangers, own = [ended(), ended()], ended()

    async def main() -> None:
        async with reaping(lambda: {own}):
            for stranger in strangers:
                await gone(stranger)
            assert is_zombie(own)
            bury(own)
            late = ended()
            await gone(late)

    asyncio.run(main())


def test_any_other_process_reaps_none(ended: Callable[[], int]) -> None:
    child = ended()

    async def main() -> None:
        async with reaping(set):
            for _ in range(10):
                await asyncio.sleep(0)

    asyncio.run(main())

    bury(child)

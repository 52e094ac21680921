"""Processes that have lost their parent are left to the first one of a container, which has to see them off."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager, suppress

_LOOK_SECONDS = 1.0


@asynccontextmanager
async def reaping(own: Callable[[], Container[int]]) -> AsyncIterator[None]:
    """Meanwhile no orphan stays a zombie, if this is the first process; its `own` children are waited for elsewhere."""
    if os.getpid() != 1:  # then another one, such as systemd, gets them
        yield
        return
    reaper = asyncio.ensure_future(_reap_on(own))
    try:
        yield
    finally:
        reaper.cancel()


async def _reap_on(own: Callable[[], Container[int]]) -> None:
    while True:
        _reap(own)
        await asyncio.sleep(_LOOK_SECONDS)


def _reap(own: Callable[[], Container[int]]) -> None:
    with suppress(ChildProcessError):  # there is none at all
        while (pid := _ended()) is not None and pid not in own():
            os.waitpid(pid, 0)


def _ended() -> int | None:
    """The first child that has ended, which can still be waited for. Raises ChildProcessError."""
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None if ended is None else ended.si_pid

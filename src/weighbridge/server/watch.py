"""Tells when something has changed in the directory of models."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Literal

from structlog.typing import FilteringBoundLogger

from weighbridge.settings import Settings

_QUIET_MS = 200  # changes that follow each other sooner are told of together
_POLL_MS = 1000
_LOOK_SECONDS = 1.0


@asynccontextmanager
async def watching(
    settings: Settings, changed: Callable[[], Awaitable[None]], logger: Callable[[], FilteringBoundLogger]
) -> AsyncIterator[None]:
    """Meanwhile `changed` is called whenever something has, one call at a time."""
    if settings.models is None or settings.models_watch == "off":
        yield
        return
    watch = asyncio.ensure_future(_watch(settings.models, settings.models_watch, changed, logger))
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _watch(
    directory: str,
    how: Literal["events", "poll"],
    changed: Callable[[], Awaitable[None]],
    logger: Callable[[], FilteringBoundLogger],
) -> None:
    """Watch the directory of this name, whichever that is: it may go, and come back as another one."""
    told: str | None = None
    while True:
        try:
            await _watch_one(directory, how, changed)
        except OSError as exc:  # it is not there, or the system watches as many as it may
            if told != str(exc):
                told = str(exc)
                logger().warning("models_not_watched", reason=told)
            await asyncio.sleep(_LOOK_SECONDS)


async def _watch_one(directory: str, how: Literal["events", "poll"], changed: Callable[[], Awaitable[None]]) -> None:
    """Return once the directory is another one. Raises OSError."""
    from watchfiles import awatch

    identity = await _identity(directory)
    changes = awatch(
        directory,
        watch_filter=None,
        step=_QUIET_MS,
        rust_timeout=int(1000 * _LOOK_SECONDS),
        yield_on_timeout=True,
        force_polling=how == "poll",
        poll_delay_ms=_POLL_MS,
    )
    async with aclosing(changes):
        await changed()  # what has happened while nobody watched
        async for found in changes:
            if found:
                await changed()
            if await _identity(directory) != identity:
                return


async def _identity(directory: str) -> tuple[int, int]:
    """Which directory it is. Raises OSError when there is none."""
    status = await asyncio.to_thread(os.stat, directory)  # network file systems may take their time
    return status.st_dev, status.st_ino

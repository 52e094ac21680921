"""Tells when something has changed in the directory of models."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress

from structlog.typing import FilteringBoundLogger

from weighbridge.settings import Settings

_QUIET_MS = 200  # changes that follow each other sooner are told of together
_POLL_SECONDS = 2.0
_LOOK_SECONDS = 1.0


@asynccontextmanager
async def watching(
    settings: Settings, changed: Callable[[], Awaitable[None]], logger: Callable[[], FilteringBoundLogger]
) -> AsyncIterator[None]:
    """Meanwhile `changed` is called when something may have, one call at a time."""
    if settings.models is None or settings.models_watch == "off":
        yield
        return
    watch = asyncio.ensure_future(
        _poll(changed) if settings.models_watch == "poll" else _watch(settings.models, changed, logger)
    )
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _poll(changed: Callable[[], Awaitable[None]]) -> None:
    """Leave it to `changed` to look: a poll by watchfiles sees only changes of another second than the last one."""
    while True:
        await changed()
        await asyncio.sleep(_POLL_SECONDS)


async def _watch(
    directory: str, changed: Callable[[], Awaitable[None]], logger: Callable[[], FilteringBoundLogger]
) -> None:
    """Watch the directory of this name, whichever that is: it may go, and come back as another one.

    While it, or anything in it, cannot be watched, it is polled.
    """
    told: str | None = None
    while True:
        try:
            await _watch_one(directory, changed)
        except Exception as exc:  # whatever the library has met, also in a task of its own
            reason = str(exc.exceptions[0] if isinstance(exc, ExceptionGroup) else exc)
            if told != reason:
                told = reason
                logger().warning("models_not_watched", reason=reason)
            await changed()
            await asyncio.sleep(_POLL_SECONDS)


async def _watch_one(directory: str, changed: Callable[[], Awaitable[None]]) -> None:
    """Return once it has to be watched anew. Raises what the library raises when anything cannot be watched."""
    from watchfiles import Change, awatch

    identity = await _identity(directory)
    changes = awatch(
        directory,
        watch_filter=None,
        step=_QUIET_MS,
        rust_timeout=int(1000 * _LOOK_SECONDS),
        yield_on_timeout=True,
        force_polling=False,
        ignore_permission_denied=False,
    )
    async with aclosing(changes):
        await anext(changes)  # now it watches; what changed before is seen with the rest
        await changed()
        while await _identity(directory) == identity:
            seen = await anext(changes)
            if seen:
                await changed()
            modified = [path for change, path in seen if change is Change.modified]
            if await asyncio.to_thread(any, map(os.path.isdir, modified)):
                return  # a directory that could not be read when it came is not watched, and now it may be readable


async def _identity(directory: str) -> tuple[int, int]:
    """Which directory it is. Raises OSError when there is none."""
    status = await asyncio.to_thread(os.stat, directory)  # network file systems may take their time
    return status.st_dev, status.st_ino

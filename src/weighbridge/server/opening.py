"""How a process opens a version of a model while it serves others."""

import asyncio
import os
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol

from weighbridge.application.catalogue import Catalogue
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.yielding import giving_way

_SWITCH_SECONDS = 0.0005  # that what answers requests waits for the interpreter; by default it is ten times as long


class Models(Protocol):
    """The models of an application: what it has under the key `models` in the state of its lifespan."""

    def open(self, name: str, version: str) -> Any:
        """Load a version, whatever takes time; in any thread. Raises ModelRefused."""
        ...

    def install(self, opened: Any) -> None:
        """Have it answer all requests that begin from now on; on the event loop."""
        ...

    def tell(self, catalogue: Catalogue) -> None:
        """What is known of all models from now on; on the event loop."""
        ...


class NoModels:
    """Those of an application that serves none by name."""

    def open(self, _name: str, _version: str) -> Any:
        """Raises ModelRefused."""
        raise ModelRefused("expected an application that serves models, got another one")

    def install(self, _opened: Any) -> None:
        """There is never one to install."""

    def tell(self, _catalogue: Catalogue) -> None:
        """There is nobody to tell."""


class Opening:
    """A version that is opened beside those that are live, one at a time."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._opened: Any = None
        self._cores = os.sched_getaffinity(0)
        sys.setswitchinterval(_SWITCH_SECONDS)

    async def prepare(self, name: str, version: str) -> None:
        """Open a version. Raises ModelRefused.

        The thread is this version's own, and may outlive a process that ends: one that never comes to an end holds up
        nothing.
        """
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # so it cannot be cancelled: whoever waits for it just goes away
        threading.Thread(target=self._run, args=(name, version, future), daemon=True).start()
        self._opened = await asyncio.wrap_future(future)

    def install(self) -> None:
        """Serve what was opened."""
        opened, self._opened = self._opened, None
        self.models.install(opened)

    def drop(self) -> None:
        """Forget what was opened."""
        self._opened = None

    def _run(self, name: str, version: str, future: Future[Any]) -> None:
        try:
            with suppress(OSError):  # a sandbox may forbid it, but then it forbids what is undone here, too
                os.sched_setaffinity(0, self._cores)  # the thread that has started this one may be kept to a core
            with giving_way():
                opened = self.models.open(name, version)
            future.set_result(opened)
        except ModelRefused as exc:
            future.set_exception(exc)
        except Exception as exc:
            future.set_exception(
                ModelRefused(f"models/{name}/{version}: expected it to open, got {type(exc).__name__}: {exc}")
            )

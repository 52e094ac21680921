"""How a process opens a version of a model while it serves others."""

import os
import sys
from contextlib import suppress
from typing import Any, Protocol

from weighbridge.adapters.artefact import Artefact
from weighbridge.application.catalogue import Catalogue
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.yielding import aside

_SWITCH_SECONDS = 0.0005  # that what answers requests waits for the interpreter; by default it is ten times as long


class Models(Protocol):
    """The models of an application: what it has under the key `models` in the state of its lifespan."""

    def open(self, name: str, version: str, read: Artefact | None) -> Any:
        """Load a version, of what was `read` or is read now: whatever takes time; in any thread.

        Raises ModelRefused.
        """
        ...

    def install(self, opened: Any) -> None:
        """Have it answer all requests that begin from now on; on the event loop."""
        ...

    def tell(self, catalogue: Catalogue) -> None:
        """What is known of all models from now on; on the event loop."""
        ...


class NoModels:
    """Those of an application that serves none by name."""

    def open(self, _name: str, _version: str, _read: Artefact | None) -> Any:
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

    async def prepare(self, name: str, version: str, read: Artefact | None) -> None:
        """Open a version, of what was `read` or is read now. Raises ModelRefused."""
        try:
            self._opened = await aside(lambda: self._open(name, version, read))
        except ModelRefused:
            raise
        except Exception as exc:
            raise ModelRefused(
                f"models/{name}/{version}: expected it to open, got {type(exc).__name__}: {exc}"
            ) from exc

    def install(self) -> None:
        """Serve what was opened."""
        opened, self._opened = self._opened, None
        self.models.install(opened)

    def drop(self) -> None:
        """Forget what was opened."""
        self._opened = None

    def _open(self, name: str, version: str, read: Artefact | None) -> Any:
        with suppress(OSError):  # a sandbox may forbid it, but then it forbids what is undone here, too
            os.sched_setaffinity(0, self._cores)  # the thread that has started this one may be kept to a core
        return self.models.open(name, version, read)

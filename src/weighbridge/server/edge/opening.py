"""How a process makes ready for a version of a model while it serves others."""

import os
import socket
from typing import Any, Protocol

from weighbridge.adapters.runners.terms import Placed, Supervision
from weighbridge.adapters.system.priority import aside
from weighbridge.application.catalogue import Entries
from weighbridge.domain.errors import ModelRefused


class Models(Protocol):
    """The models of an application: what it has under the key `models` in the state of its lifespan."""

    def open(self, name: str, placed: Placed) -> Any:
        """Make ready to answer for a version: whatever takes time; in any thread. Raises ModelRefused."""
        ...

    def install(self, opened: Any) -> None:
        """Have it answer all requests that begin from now on; on the event loop."""
        ...

    def drop(self, opened: Any) -> None:
        """Forget what was opened; on the event loop."""
        ...

    def connect(self, number: int, end: socket.socket, instance: int, board: int, slot: int) -> None:
        """Ask a runner of an opening, at this end, and count in a slot of the board; on the event loop."""
        ...

    def put_out(self, number: int, reason: str) -> None:
        """The version of an opening is out of service; on the event loop."""
        ...

    def supervise(self, broken: Supervision) -> None:
        """Who is told of runners that must go."""
        ...

    def tell(self, entries: Entries) -> None:
        """What is known of all models from now on; on the event loop."""
        ...


class NoModels:
    """Those of an application that serves none by name."""

    def open(self, _name: str, _placed: Placed) -> Any:
        """Raises ModelRefused."""
        raise ModelRefused("the application serves no models")

    def install(self, _opened: Any) -> None:
        """There is never one to install."""

    def drop(self, _opened: Any) -> None:
        """There is never one to forget."""

    def connect(self, _number: int, end: socket.socket, _instance: int, board: int, _slot: int) -> None:
        """Nobody asks it."""
        end.close()
        os.close(board)

    def put_out(self, _number: int, _reason: str) -> None:
        """Nobody asks for it."""

    def supervise(self, _broken: Supervision) -> None:
        """There are no runners."""

    def tell(self, _entries: Entries) -> None:
        """There is nobody to tell."""


class Opening:
    """A version that is made ready beside those that are live, one at a time."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._opened: Any = None

    async def prepare(self, name: str, placed: Placed) -> None:
        """Open a version. Raises ModelRefused."""
        self.drop()
        try:
            self._opened = await aside(lambda: self.models.open(name, placed))
        except ModelRefused:
            raise
        except Exception as exc:
            path = f"models/{name}/{placed.version}"
            raise ModelRefused(f"{path}: opening failed: {type(exc).__name__}: {exc}") from exc

    def install(self) -> None:
        """Serve what was opened."""
        opened, self._opened = self._opened, None
        self.models.install(opened)

    def drop(self) -> None:
        """Forget what was opened."""
        opened, self._opened = self._opened, None
        if opened is not None:
            self.models.drop(opened)

"""A directory of models that a test describes, and one who proves what is in it."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import Rollout
from weighbridge.adapters.repository import FoundModel, FoundVersion
from weighbridge.domain.errors import ModelRefused
from weighbridge.settings import Settings


class FakeShelf:
    """Models by name, with versions of which each has a number for its content."""

    def __init__(self) -> None:
        self.found: dict[str, FoundModel] = {}
        self.others: list[str] = []
        self.problem: str | None = None
        self.read_only = False
        self.most_bytes = 0
        self.scanned_under: int | None = None
        self.before_writing: Callable[[], None] = lambda: None

    def put(self, name: str, *versions: str, **keys: Any) -> None:
        """Have a model with these versions, and a rollout if it has any keys."""
        rollout = Rollout(**keys) if keys else None
        found = {version: FoundVersion(fingerprint=f"{name}-{version}") for version in versions}
        self.found[name] = FoundModel(rollout, None, found)

    def change(self, name: str, version: str, found: FoundVersion) -> None:
        """Have something else in the place of a version."""
        model = self.found[name]
        self.found[name] = replace(model, versions={**model.versions, version: found})

    def scan(self) -> dict[str, FoundModel]:
        self.scanned_under = os.sched_getscheduler(0)  # the policy of the calling thread
        if self.problem is not None:
            raise ModelRefused(self.problem)
        return dict(self.found)

    def strangers(self) -> list[str]:
        return self.others

    def write_rollout(self, name: str, *, live: str, previous: str | None) -> None:
        self.before_writing()
        if self.read_only:
            raise OSError(errno.EROFS, "Read-only file system")
        found = self.found[name]
        changed = (found.rollout or Rollout()).model_copy(update={"live": live, "previous": previous})
        self.found[name] = replace(found, rollout=changed)


class FakeProver:
    """Proves all but what it is told to refuse."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        self.proven: list[tuple[str, str]] = []
        self.settings: list[Settings] = []

    def made(self) -> Callable[[Settings], "FakeProver"]:
        """Makes this one, whatever the settings, which it keeps."""

        def make(settings: Settings) -> FakeProver:
            self.settings.append(settings)
            return self

        return make

    async def prove(self, name: str, version: str) -> Artefact:
        read = Artefact.of(f"{name} {version}".encode())
        if version in self.refused:
            raise ModelRefused(self.refused[version])
        self.proven.append((name, version))
        return read

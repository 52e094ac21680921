"""What a container is told to leave behind: a file that it logs to, and memory that it counts in."""

import json
import os
from pathlib import Path
from typing import Any

from dependency_injector import providers

from tests.waiting import until
from weighbridge.adapters.series import MEMORY_BYTES
from weighbridge.container import Container
from weighbridge.settings import Settings


class Log:
    """The log of one application, complete once that has stopped, and the `memory` in which it counts."""

    def __init__(self, path: Path) -> None:
        self.memory = bytearray(MEMORY_BYTES)
        self._path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def container(self, **settings: Any) -> Container:
        """A container that logs and counts here, with these settings and otherwise the defaults."""
        container = Container(settings=Settings(**settings))
        container.log_descriptor.override(providers.Object(self.descriptor))
        container.memory.override(providers.Object(self.memory))
        return container

    @property
    def text(self) -> str:
        """All that was logged."""
        return self._path.read_text("utf-8")

    @property
    def events(self) -> list[dict[str, Any]]:
        """All that was logged as JSON, one object a line."""
        return [json.loads(line) for line in self.text.splitlines()]

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [line for line in self.events if line["event"] == event]

    def written(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind, once there are some: they are written by a thread."""
        until(lambda: self.of(event))
        return self.of(event)

    def close(self) -> None:
        """Give the file back."""
        os.close(self.descriptor)

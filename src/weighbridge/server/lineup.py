"""What is told of models: to all who serve them, which version of each is live; to operators, what they have done."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import orjson
from pydantic import TypeAdapter

from weighbridge.adapters.runners.terms import Placed
from weighbridge.application.catalogue import EMBEDDED, ModelEntry


class Stopping(Exception):
    """The service ends, and changes nothing any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an operation; `persisted` says whether a restart finds the same version live."""

    model: str
    live: str | None
    previous: str | None
    persisted: bool


@dataclass(frozen=True, slots=True)
class Lineup:
    """The versions that are `live`, by the names of their models, the embedded one aside; and the catalogue of all."""

    live: Mapping[str, Placed] = field(default_factory=dict)
    catalogue: Mapping[str, ModelEntry] = field(default_factory=lambda: {EMBEDDED.name: EMBEDDED})

    @contextmanager
    def lent(self) -> Iterator[int]:
        """The descriptor of memory that holds the lineup, of any size, and that no file system has. Raises OSError."""
        with os.fdopen(os.memfd_create("weighbridge-lineup"), "wb", buffering=0) as file:
            file.write(orjson.dumps(self))
            yield file.fileno()

    @classmethod
    def read(cls, descriptor: int) -> "Lineup":
        """The lineup in memory that another process has lent."""
        text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)  # its position is shared with all who have it
        return _reader().validate_json(text)


@cache
def _reader() -> TypeAdapter[Lineup]:
    """Made once: that takes milliseconds, in which a worker would answer nobody."""
    return TypeAdapter(Lineup)

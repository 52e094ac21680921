"""Values that one process lends another: written into memory that no file system has, of any size."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar, cast

import orjson
from pydantic import TypeAdapter

from weighbridge.adapters.system.memory import unnamed

ValueT = TypeVar("ValueT")


@contextmanager
def lent(value: object) -> Iterator[int]:
    """The descriptor of memory that holds a dataclass, to be sent to another process meanwhile. Raises OSError."""
    with os.fdopen(unnamed("lent"), "wb", buffering=0) as file:
        file.write(orjson.dumps(value))
        yield file.fileno()


def borrowed(kind: type[ValueT], descriptor: int) -> ValueT:
    """The dataclass in memory that another process has lent; it may be read by others, too. Raises ValueError."""
    text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)  # its position is shared with all who have it
    value: ValueT = _reader(cast("Any", kind)).validate_json(text)
    return value


@cache
def _reader(kind: type[Any]) -> TypeAdapter[Any]:
    """Made once: that takes milliseconds, in which a worker would answer nobody."""
    return TypeAdapter(kind)

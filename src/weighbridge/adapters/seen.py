"""Results of reading files, remembered as long as the files do not change."""

import os
from collections.abc import Callable, Mapping
from time import time_ns
from typing import Any, NamedTuple, TypeVar, cast

from weighbridge.domain.errors import ModelRefused

ResultT = TypeVar("ResultT")

_SETTLED_NS = 2 * 10**9  # the coarsest clock of a file system; changes between two of its ticks look like one


class _Read(NamedTuple):
    """The result of reading a file, or the reason why it was refused; and the file's identity at that time."""

    identity: tuple[int, ...]
    result: Any
    reason: str | None


Seen = Mapping[tuple[str, str], _Read]
"""What was read, by the kind of the result and the file's path."""


class Look:
    """One look at some files: only those are read that are not as they were at the `former` one.

    `seen` is for the next look. What is gone is not in it, so that it never has more than the files that there are.
    """

    def __init__(self, former: Seen) -> None:
        self.seen: dict[tuple[str, str], _Read] = {}
        self._former = former

    def read(self, kind: str, path: str, descriptor: int, read: Callable[[], ResultT]) -> ResultT:
        """The result of `read`, or the one of last time if the open file is the same. Raises ModelRefused."""
        status = os.fstat(descriptor)
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        is_settled = time_ns() - status.st_ctime_ns > _SETTLED_NS
        found = self._former.get((kind, path))
        if found is None or found.identity != identity:
            found = _Read(identity, *_result(read))
        if is_settled:
            self.seen[kind, path] = found
        if found.reason is not None:
            raise ModelRefused(found.reason)
        return cast("ResultT", found.result)


def _result(read: Callable[[], ResultT]) -> tuple[ResultT | None, str | None]:
    """The result, or the reason of a refusal. Raises ModelRefused where the file could not be read."""
    try:
        return read(), None
    except ModelRefused as exc:
        if isinstance(exc.__cause__, OSError):
            raise
        return None, str(exc)

"""What a worker is told of the runners of a version, and what all workers count together."""

from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import Buffer

_WORD = 8
_PER_WORKER = 2


Supervision = Callable[[int, int, str], None]
"""Told of the number of an opening, that of a runner, and why the runner must go: it sent what it may not."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How the runners of one version are asked.

    `number` names this opening of the version; no other has it. A call of n rows takes about `call_seconds` and n times
    `row_seconds`. Only where rows were shown to get the same answer alone and together does it `share` calls, of at
    most `max_batch_rows`.
    """

    number: int
    instances: int
    max_batch_rows: int
    shares: bool
    call_seconds: float
    row_seconds: float


@dataclass(frozen=True, slots=True)
class Placed:
    """A version, and where it is called: by runners on these `terms`, or inline, at most `slice_rows` at once.

    So many rows hold the event loop for 5 ms. `manifest` is what was opened by the runners, whatever has become of the
    file since; where the version is called inline, each process reads it for itself. So it does for what is called
    `in_thread`, since there can be no runners.
    """

    version: str
    slice_rows: int = 1
    terms: Terms | None = None
    manifest: str = ""
    in_thread: bool = False


class Board:
    """How many requests and rows each worker has in hand for the runners of a version, in memory that all share.

    Each worker writes in a slot of its own, of 16 bytes; one for which there is none counts for itself.
    """

    def __init__(self, memory: Buffer | None = None, slot: int = 0) -> None:
        counts = memoryview(bytearray(self.size(1)) if memory is None else memory).cast("B").cast("q")
        fits = _PER_WORKER * slot < len(counts)
        self._counts = counts if fits else memoryview(bytearray(self.size(1))).cast("q")
        self._at = _PER_WORKER * slot if fits else 0

    @property
    def own(self) -> tuple[int, int]:
        """Requests and rows of this worker."""
        return self._counts[self._at], self._counts[self._at + 1]

    def add(self, requests: int, rows: int) -> None:
        """Count these as well; negative ones are in hand no more."""
        self._counts[self._at] += requests
        self._counts[self._at + 1] += rows

    def total(self) -> tuple[int, int]:
        """Requests and rows of all workers."""
        counts = self._counts.tolist()
        return sum(counts[::2]), sum(counts[1::2])

    @staticmethod
    def size(workers: int) -> int:
        """Bytes of memory for so many."""
        return _WORD * _PER_WORKER * workers

"""Series of numbers in memory that processes share: one writes, others read at any time, even after its end.

First comes the number of records, in 8 bytes. A record is the key of a series, and its values as doubles. The first
byte of a key is written last, and is the first to go: without it there is no series. A value is one aligned word. So a
reader sees no half of anything, even when the writer was killed in the midst of it.
"""

from collections.abc import Callable, Iterator
from threading import Lock
from typing import TypeAlias

from typing_extensions import Buffer

BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of a histogram's buckets, in seconds."""

SECONDS = len(BOUNDS) + 1
"""Where in the values the sum of seconds is: after the buckets. A counter uses only the first value."""

MEMORY_BYTES = 1024 * 1024
"""Room for some 2,000 series; pages that are not used take no memory."""

OVERFLOW = "overflow"
"""Every label of the series in which a family counts what finds no room."""

Key: TypeAlias = tuple[str, ...]
"""The family of a series, and the values of its labels."""

Values: TypeAlias = "memoryview[float]"
"""The values of a series: what is assigned is in the shared memory at once."""

_HEADER_BYTES = 8
_RECORD_BYTES = 512
_VALUES = SECONDS + 1
_KEY_BYTES = _RECORD_BYTES - 8 * _VALUES
_SEPARATOR = "\x1f"  # ASCII's own: no label has it
_KEPT_FREE = 8  # records for the overflow of each family; there are fewer families


class Table:
    """The series that one process writes, in `memory` that begins as zeros and whose size is a multiple of 8.

    Any thread may open and release series.
    """

    def __init__(self, memory: Buffer) -> None:
        self._bytes = memoryview(memory).cast("B")
        self._number = self._bytes[:_HEADER_BYTES].cast("Q")
        self._room = (len(self._bytes) - _HEADER_BYTES) // _RECORD_BYTES - _KEPT_FREE
        self._known: dict[Key, Values] = {}
        self._starts: dict[Key, int] = {}
        self._free: list[int] = []
        self._lock = Lock()

    def series(self, *key: str) -> Values:
        """The values of a series, zeros when it is new; those of its family's overflow when there is no more room."""
        with self._lock:
            if key not in self._known and not self._has_room_for(key):
                family, *labels = key
                key = (family, *(OVERFLOW for _ in labels))
            if key not in self._known:
                self._known[key] = self._append(key)
            return self._known[key]

    def _has_room_for(self, key: Key) -> bool:
        return bool(self._free or self._number[0] < self._room) and len(_encoded(key)) <= _KEY_BYTES

    def release(self, is_over: Callable[[Key], bool]) -> None:
        """Give up the series whose key `is_over`, to which nobody may write any more: others take their places."""
        with self._lock:
            for key in [key for key in self._known if is_over(key)]:
                del self._known[key]
                start = self._starts.pop(key)
                self._bytes[start] = 0  # from now on nobody reads it
                self._bytes[start : start + _KEY_BYTES] = bytes(_KEY_BYTES)
                self._free.append(start)

    def _append(self, key: Key) -> Values:
        encoded = _encoded(key)
        start = self._free.pop() if self._free else _HEADER_BYTES + self._number[0] * _RECORD_BYTES
        self._starts[key] = start
        self._bytes[start + _KEY_BYTES : start + _RECORD_BYTES] = bytes(_RECORD_BYTES - _KEY_BYTES)
        self._bytes[start + 1 : start + len(encoded)] = encoded[1:]
        self._bytes[start] = encoded[0]
        # Only now: a reader looks at no record that is not counted.
        self._number[0] = max(self._number[0], (start - _HEADER_BYTES) // _RECORD_BYTES + 1)
        return _values(self._bytes, start)


def read(memory: Buffer) -> Iterator[tuple[Key, list[float]]]:
    """Key and values of each series in the `memory` of a table, whoever writes it or wrote it."""
    view = memoryview(memory).cast("B")
    number = view[:_HEADER_BYTES].cast("Q")[0]
    for start in range(_HEADER_BYTES, _HEADER_BYTES + number * _RECORD_BYTES, _RECORD_BYTES):
        encoded = bytes(view[start : start + _KEY_BYTES])
        values = list(_values(view, start))
        if encoded[0] and encoded == bytes(view[start : start + _KEY_BYTES]):  # else it was given up, or just is
            yield tuple(encoded.rstrip(b"\0").decode().split(_SEPARATOR)), values


def _encoded(key: Key) -> bytes:
    return _SEPARATOR.join(key).encode()


def _values(view: memoryview, start: int) -> Values:
    """Those of the record that starts there."""
    return view[start + _KEY_BYTES : start + _RECORD_BYTES].cast("d")

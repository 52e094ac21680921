"""The frames that a worker and a runner send each other over a stream socket.

A frame is a header and a payload of bounded length. The worker is trusted: its rows are a pickle. The runner is not,
for an artefact may have taken it over: what it sends is numbers, shapes, raw arrays and UTF-8, and is checked against
the signature before anyone uses it.
"""

import json
import pickle
from collections.abc import Iterator, Sequence
from enum import IntEnum
from math import prod
from struct import Struct, error
from typing import Any, NamedTuple

import numpy as np

from weighbridge.domain.batch import DTYPES, Outputs, Rows
from weighbridge.domain.signature import Kind, Signature

_HEADER = Struct("<BxxxIQ")  # kind, bytes of the payload, number of the request
_NUMBER = Struct("<Q")
_LENGTH = Struct("<I")
_SHAPES = {rank: Struct(f"<B{rank}Q") for rank in (1, 2)}

_MOST_TEXT_BYTES = 64 * 1024**2  # of an answer
_MOST_REASON_BYTES = 64 * 1024
_MOST_FAILURE_BYTES = 1024**2  # a reason, and a name of the signature, as JSON
_MOST_ANNOUNCED = 1024**2


class Word(IntEnum):
    """What a frame says."""

    # From the worker
    ASK = 1  # score these rows
    DROP = 2  # forget this request, if its call has not been announced
    # From the runner
    ANNOUNCE = 3  # a call of these requests begins
    ANSWER = 4  # the outputs
    FAIL = 5  # the reason


class BrokenFrame(Exception):
    """What came is no frame that the other side may send."""


class Frame(NamedTuple):
    """One frame; the number is that of a request, 0 for an announcement."""

    word: Word
    number: int
    payload: bytes


class Failure(NamedTuple):
    """Why a request failed: what the model raised, in words for the log.

    `most` and `column` are those of a FeatureTooLarge; `row` is the place of a row among those of the request.
    """

    text: str
    most: str | None = None
    column: str | None = None
    row: int | None = None


class Announcement(NamedTuple):
    """A call that begins: how many rows it has, those of other workers included, and which requests of this one."""

    rows: int
    numbers: tuple[int, ...]


class Inbox:
    """Puts frames together from the bytes that come. `limit` is the most bytes that a payload may have."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bytes = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """The frames that are whole with this `data`. Raises BrokenFrame."""
        self._bytes += data
        start = 0
        try:
            while len(self._bytes) - start >= _HEADER.size:
                kind, length, number = _HEADER.unpack_from(self._bytes, start)
                if length > self.limit:
                    raise BrokenFrame(f"expected a payload of at most {self.limit} bytes, got {length}")
                end = start + _HEADER.size + length
                if len(self._bytes) < end:
                    break
                payload = bytes(memoryview(self._bytes)[start + _HEADER.size : end])
                start = end
                yield Frame(_word(kind), number, payload)
        finally:
            del self._bytes[:start]


def _word(kind: int) -> Word:
    try:
        return Word(kind)
    except ValueError as exc:
        raise BrokenFrame("expected a known kind of frame, got another") from exc


def ask(number: int, rows: Rows) -> bytes:
    """The frame that asks for the outputs of rows."""
    return _frame(Word.ASK, number, pickle.dumps(rows, pickle.HIGHEST_PROTOCOL))


def asked(payload: bytes) -> Rows:
    """The rows of a frame from a worker, which is trusted."""
    rows: Rows = pickle.loads(payload)  # noqa: S301  # only runners read it, and only workers write it
    return rows


def drop(number: int) -> bytes:
    """The frame that takes a request back."""
    return _frame(Word.DROP, number, b"")


def announce(rows: int, numbers: Sequence[int]) -> bytes:
    """The frame that announces a call."""
    return _frame(Word.ANNOUNCE, 0, b"".join(map(_NUMBER.pack, (rows, *numbers))))


def announced(payload: bytes) -> Announcement:
    """The announcement in a payload. Raises BrokenFrame."""
    if not payload or len(payload) % _NUMBER.size:
        raise BrokenFrame("expected the numbers of requests, got a part of one")
    rows, *numbers = (number for (number,) in _NUMBER.iter_unpack(payload))
    return Announcement(rows, tuple(numbers))


def fail(number: int, failure: Failure) -> bytes:
    """The frame that tells why a request failed."""
    text = failure.text.encode(errors="replace")[-_MOST_REASON_BYTES // 8 :].decode(errors="replace")
    return _frame(Word.FAIL, number, json.dumps(failure._replace(text=text)).encode())


def failed(payload: bytes) -> Failure:
    """The failure in a payload. Raises BrokenFrame."""
    if len(payload) > _MOST_FAILURE_BYTES:
        raise BrokenFrame(f"expected a reason of at most {_MOST_FAILURE_BYTES} bytes, got {len(payload)}")
    try:
        text, most, column, row = json.loads(payload)
    except (ValueError, TypeError, RecursionError) as exc:
        raise BrokenFrame("expected a reason, got another payload") from exc
    is_text = all(isinstance(value, str | None) for value in (most, column))
    if not isinstance(text, str) or not is_text or not (row is None or type(row) is int):
        raise BrokenFrame("expected a reason of texts and a row, got others")
    if any("\ud800" <= char <= "\udfff" for value in (text, most, column) for char in value or ""):
        raise BrokenFrame("expected texts in Unicode, got half a character")
    return Failure(text, most, column, row)


def answer(number: int, outputs: Outputs) -> bytes:
    """The frame with the outputs of a request. Raises ValueError for texts that are too long together."""
    parts = []
    room = _MOST_TEXT_BYTES
    for values in outputs:
        parts.append(_SHAPES[values.ndim].pack(values.ndim, *values.shape))
        if values.dtype == object:
            texts = [text.encode() for text in values.flat]
            room -= sum(map(len, texts))
            if room < 0:
                raise ValueError(f"expected at most {_MOST_TEXT_BYTES} bytes of texts, got {_MOST_TEXT_BYTES - room}")
            parts += [_LENGTH.pack(len(text)) for text in texts]
            parts += texts
        else:
            parts.append(values.tobytes())
    return _frame(Word.ANSWER, number, b"".join(parts))


def answered(payload: bytes, signature: Signature, rows: int) -> Outputs:
    """The outputs for so many rows, as the signature states them. Raises BrokenFrame."""
    outputs = []
    at = 0
    try:
        for column in signature.outputs:
            shape = (rows,) if column.width is None else (rows, column.width)
            expected = _SHAPES[len(shape)]
            if expected.unpack_from(payload, at) != (len(shape), *shape):
                raise BrokenFrame(f"expected {column.name} of shape {shape}, got another")
            at += expected.size
            if column.kind is Kind.STRING:
                values, at = _texts(payload, at, prod(shape))
            else:
                dtype = np.dtype(DTYPES[column.kind])
                values = np.frombuffer(payload, dtype, prod(shape), at)
                at += values.nbytes
                if column.kind is Kind.BOOL and values.view(np.uint8).max(initial=0) > 1:
                    raise BrokenFrame(f"expected {column.name} of 0 and 1, got another byte")
            outputs.append(values.reshape(shape))
    except (ValueError, error) as exc:  # of numpy, of UTF-8, and of struct: the payload ends too soon, say
        raise BrokenFrame("expected the outputs that the signature states, got another payload") from exc
    if at != len(payload):
        raise BrokenFrame("expected the outputs that the signature states, got more")
    return tuple(outputs)


def most_bytes(signature: Signature, rows: int) -> int:
    """The longest payload that a runner may send a worker that has asked it for so many rows at once."""
    width = sum(column.width or 1 for column in signature.outputs)
    texts = any(column.kind is Kind.STRING for column in signature.outputs)
    return _MOST_REASON_BYTES + 8 * _MOST_ANNOUNCED + 8 * width * rows + (_MOST_TEXT_BYTES if texts else 0)


def _texts(payload: bytes, at: int, count: int) -> tuple[Any, int]:
    """So many texts that begin there, and where they end."""
    lengths = np.frombuffer(payload, "<u4", count, at).tolist()
    at += _LENGTH.size * count
    texts = np.empty(count, object)
    for place, length in enumerate(lengths):
        if at + length > len(payload):
            raise BrokenFrame("expected texts within the payload, got a longer one")
        texts[place] = payload[at : at + length].decode()
        at += length
    return texts, at


def _frame(word: Word, number: int, payload: bytes) -> bytes:
    return _HEADER.pack(word, len(payload), number) + payload

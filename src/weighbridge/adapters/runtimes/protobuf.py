"""The wire format of protocol buffers, for models that are looked into before a library parses them.

See https://protobuf.dev/programming-guides/encoding.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from weighbridge.adapters.artefact import Artefact
from weighbridge.domain.errors import ModelRefused

VARINT, LENGTH_DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}
"""Kinds of fields that always have the same number of bytes."""
_SEVEN_BITS, _MORE = 0x7F, 0x80


class Field(NamedTuple):
    """A field of a message: its number and kind, and where its tag and its content begin, and it ends."""

    number: int
    kind: int
    tag: int
    start: int
    stop: int


@contextmanager
def looked_into(artefact: Artefact, expected: str) -> Iterator[mmap.mmap]:
    """The bytes of an artefact, which go with the last that refers to them.

    Raises ModelRefused when it turns out meanwhile that they are not what was expected.
    """
    try:
        with artefact.path.open("rb") as file:
            yield mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (LookupError, ValueError) as exc:  # mmap takes no empty file, either
        raise ModelRefused(f"expected {expected}, got bytes that are not one") from exc


def fields(data: mmap.mmap, at: int, end: int) -> Iterator[Field]:
    """The fields of a message. Raises LookupError or ValueError for what is none."""
    while at < end:
        begin = at
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        start = at
        if kind == LENGTH_DELIMITED:
            length, start = varint(data, at)
            at = start + length
        elif kind == VARINT:
            _, at = varint(data, at)
        else:
            at += _FIXED[kind]
        yield Field(number, kind, begin, start, at)
    if at != end:
        raise ValueError("a field that is longer than its message")


def varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises LookupError where the data ends first."""
    value = shift = 0
    while data[at] & _MORE:
        value |= (data[at] & _SEVEN_BITS) << shift
        at += 1
        shift += 7
    return value | data[at] << shift, at + 1


def heading(number: int, length: int) -> bytes:
    """What comes before the content of a field of this length."""
    return _encoded(number << 3 | LENGTH_DELIMITED) + _encoded(length)


def _encoded(value: int) -> bytes:
    octets = []
    while value > _SEVEN_BITS:
        octets.append(value & _SEVEN_BITS | _MORE)
        value >>= 7
    return bytes([*octets, value])

"""What workers and runners send each other: it comes as it went, and whatever else a runner sends is refused."""

import json
import math
import pickle
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from struct import pack
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.adapters.runners import frames
from weighbridge.adapters.runners.frames import BrokenFrame, Failure, Frame, Inbox, Word
from weighbridge.domain.batch import DTYPES, Outputs
from weighbridge.domain.signature import Column, Kind, Signature

HEADER = 16
INPUT = Column(name="x", kind=Kind.INT)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.INT: st.integers(-(2**63), 2**63 - 1),
    Kind.FLOAT: st.floats(),
    Kind.BOOL: st.booleans(),
    Kind.STRING: st.text(),
}
ONE_OF_EACH = Signature((INPUT,), tuple(Column(name=kind, kind=kind) for kind in Kind))


class Answer(NamedTuple):
    """What a model of a signature says of so many rows."""

    signature: Signature
    rows: int
    outputs: Outputs

    @property
    def payload(self) -> bytes:
        return frames.answer(1, self.outputs)[HEADER:]

    def read(self, payload: bytes) -> Outputs:
        return frames.answered(payload, self.signature, self.rows)


def _values(column: Column, rows: int) -> st.SearchStrategy[Any]:
    shape = (rows,) if column.width is None else (rows, column.width)
    count = math.prod(shape)

    def array(values: list[Any]) -> Any:
        filled = np.empty(count, DTYPES[column.kind])
        filled[:] = values
        return filled.reshape(shape)

    return st.lists(VALUES[column.kind], min_size=count, max_size=count).map(array)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    kinds = draw(st.lists(st.tuples(st.sampled_from(Kind), st.none() | st.integers(1, 3)), min_size=1, max_size=4))
    outputs = tuple(Column(name=str(place), kind=kind, width=width) for place, (kind, width) in enumerate(kinds))
    rows = draw(st.integers(0, 4))
    return Answer(Signature((INPUT,), outputs), rows, tuple(draw(_values(column, rows)) for column in outputs))


EACH = Answer(
    ONE_OF_EACH,
    1,
    tuple(np.array([value], DTYPES[kind]) for kind, value in zip(Kind, (7, 0.5, True, "ü"), strict=True)),
)


def one(frame: bytes, limit: int = 2**32 - 1) -> Frame:
    """The one frame in what was sent."""
    [found] = Inbox(limit).feed(frame)
    return found


@given(answers())
def test_outputs_of_any_kind_and_width_come_as_they_went(answer: Answer) -> None:
    word, number, payload = one(frames.answer(2**64 - 1, answer.outputs))

    assert (word, number) == (Word.ANSWER, 2**64 - 1)
    for went, came in zip(answer.outputs, answer.read(payload), strict=True):
        assert came.dtype == went.dtype
        np.testing.assert_array_equal(came, went)
    assert len(payload) <= frames.most_bytes(answer.signature, answer.rows)


@pytest.mark.parametrize("rows", [[(1, None, "ü", [1.0, 2.0])], np.array([[1.0, math.nan]])])
def test_rows_come_as_they_went(rows: Any) -> None:
    word, number, payload = one(frames.ask(3, rows))

    assert (word, number) == (Word.ASK, 3)
    np.testing.assert_equal(frames.asked(payload), rows)


def test_a_request_is_taken_back_by_its_number() -> None:
    assert one(frames.drop(3)) == Frame(Word.DROP, 3, b"")


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1)))
def test_an_announcement_names_its_requests(rows: int, numbers: list[int]) -> None:
    word, _, payload = one(frames.announce(rows, numbers))

    assert word is Word.ANNOUNCE
    assert frames.announced(payload) == (rows, tuple(numbers))


_TEXTS = st.none() | st.text()


@given(st.builds(Failure, st.text(), _TEXTS, _TEXTS, st.none() | st.integers()))
def test_a_failure_comes_as_it_went(failure: Failure) -> None:
    word, number, payload = one(frames.fail(4, failure))

    assert (word, number) == (Word.FAIL, 4)
    assert frames.failed(payload) == failure


def test_of_a_long_reason_the_end_is_told_and_half_a_character_is_none() -> None:
    text = frames.failed(one(frames.fail(1, Failure("\0" * 10**6 + "\ud800the end")))[2]).text

    assert text.endswith("?the end")
    assert len(text) == 8192


@given(st.binary(), st.lists(st.integers(0, 60)))
def test_frames_are_put_together_however_they_come(payload: bytes, cuts: list[int]) -> None:
    sent = frames.drop(1) + frames.ask(2, [payload]) + frames.announce(1, [2])
    inbox = Inbox(2**32 - 1)
    bounds = [0, *sorted(cuts), len(sent)]

    came = [frame for start, end in pairwise(bounds) for frame in inbox.feed(sent[start:end])]

    assert came == [one(frames.drop(1)), one(frames.ask(2, [payload])), one(frames.announce(1, [2]))]


@pytest.mark.parametrize("length", [101, 2**32 - 1])
def test_a_payload_beyond_the_limit_is_refused_before_it_comes(length: int) -> None:
    with pytest.raises(BrokenFrame, match=f"expected a payload of at most 100 bytes, got {length}"):
        [*Inbox(100).feed(pack("<BxxxIQ", Word.ANSWER, length, 1))]


def test_a_kind_that_nobody_knows_is_refused() -> None:
    with pytest.raises(BrokenFrame, match="expected a known kind"):
        one(pack("<BxxxIQ", 77, 0, 1))


@given(answers(), st.data())
def test_a_part_of_an_answer_is_refused(answer: Answer, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(answer.payload) - 1))

    with pytest.raises(BrokenFrame):
        answer.read(answer.payload[:length])


@given(answers(), st.binary(min_size=1))
def test_more_than_an_answer_is_refused(answer: Answer, more: bytes) -> None:
    with pytest.raises(BrokenFrame, match="got more"):
        answer.read(answer.payload + more)


@given(answers())
def test_outputs_for_another_number_of_rows_are_refused(answer: Answer) -> None:
    with pytest.raises(BrokenFrame, match="of shape"):
        frames.answered(answer.payload, answer.signature, answer.rows + 1)


def _read_whatever(read: Callable[[bytes], object], payload: bytes) -> None:
    with suppress(BrokenFrame):
        read(payload)


@given(answers(), st.binary(max_size=64), st.integers(0, 200))
def test_whatever_else_a_runner_sends_is_refused_or_understood(answer: Answer, damage: bytes, at: int) -> None:
    payload = answer.payload[:at] + damage + answer.payload[at + len(damage) :]

    for read in (answer.read, frames.announced, frames.failed):
        _read_whatever(read, payload)
        _read_whatever(read, damage)


def _with(kind: Kind, value: bytes) -> bytes:
    """An answer whose output of this kind has other bytes."""
    [*columns] = (frames.answer(1, (values,))[HEADER:] for values in EACH.outputs)
    place = [*Kind].index(kind)
    shape = 9
    columns[place] = columns[place][:shape] + value
    return b"".join(columns)


@pytest.mark.parametrize(
    "payload",
    [
        _with(Kind.BOOL, b"\2"),
        _with(Kind.STRING, pack("<I", 2) + b"\xff\xff"),
        _with(Kind.STRING, pack("<I", 2**32 - 1) + b"a"),
        b"\2" + EACH.payload[1:],
        b"\1" + pack("<Q", 2**64 - 1) + EACH.payload[9:],
        pickle.dumps(EACH.outputs),
        b"",
    ],
)
def test_outputs_that_are_none_are_refused(payload: bytes) -> None:
    assert EACH.read(EACH.payload)[3].tolist() == ["ü"]

    with pytest.raises(BrokenFrame):
        EACH.read(payload)


@pytest.mark.parametrize("payload", [b"", b"1234567", b"123456789"])
def test_a_part_of_an_announcement_is_refused(payload: bytes) -> None:
    with pytest.raises(BrokenFrame):
        frames.announced(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'["text", null, null]',
        b'["text", null, null, NaN]',
        b'["text", null, null, 1.0]',
        b'["text", null, null, true]',
        b'["text", null, null, "1"]',
        b'["text", null, 1, 1]',
        b'["text", [], null, 1]',
        b"[null, null, null, null]",
        b'["text", null, null, 1' + 10_000 * b"0" + b"]",
        b'["\xff", null, null, null]',
        rb'["\ud800", null, null, null]',
        rb'["text", "\udfff", null, null]',
        b'{"text": 1, "most": 2, "column": 3, "row": 4}',
        b"[" * 100_000,
        pickle.dumps(Failure("text")),
    ],
)
def test_a_reason_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(BrokenFrame):
        frames.failed(payload)


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._path,)


def test_nothing_that_a_runner_sends_is_unpickled(tmp_path: Path) -> None:
    payload = pickle.dumps(Touch(tmp_path / "touched"))
    assert pickle.loads(payload) is None  # noqa: S301  # to show that it would do its worst
    (tmp_path / "touched").unlink()

    for read in (EACH.read, frames.announced, frames.failed):
        _read_whatever(read, payload)

    assert not (tmp_path / "touched").exists()


def test_a_reason_takes_no_more_memory_than_its_text() -> None:
    payload = json.dumps([[]] * 500_000).encode()

    tracemalloc.start()
    with pytest.raises(BrokenFrame):
        frames.failed(payload)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < len(payload)


def test_texts_that_the_other_side_would_not_take_are_an_error_of_the_model() -> None:
    outputs = (np.array(["x" * (64 * 1024**2 + 1)], object),)

    with pytest.raises(ValueError, match="expected at most 67108864 bytes of texts, got 67108865"):
        frames.answer(1, outputs)

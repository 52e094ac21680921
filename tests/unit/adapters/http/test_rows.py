"""The quick reader of batches only accepts, and only what pydantic accepts, with the same numbers to the bit."""

import json
import struct
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighbridge.adapters.http.prediction import BatchInput
from weighbridge.adapters.http.rows import read_batch

finite = st.floats(allow_nan=False, allow_infinity=False)
widths = st.integers(1, 6)
rectangular = widths.flatmap(
    lambda width: st.lists(st.lists(finite, min_size=width, max_size=width), min_size=1, max_size=6)
)
NUMBERS = ("-0", "-0.0", "0e5", "1E400", "1e-400", "5e-324", "2.2250738585072011e-308", "9007199254740993", "1e23")
INTEGERS = (2**53 + 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**400)
NONE = ("1.", ".5", "01", "+1", "1_0", "0x1", "1e", "--1", "NaN", "Infinity", "true", "null", '"1"', "[]", "{}", "[1]")
literals = st.one_of(
    finite.map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from([*NUMBERS, *map(str, INTEGERS), "0." + "3" * 800, *NONE]),
)
lists_of_literals = st.lists(literals, max_size=4).map(lambda items: f"[{','.join(items)}]")
rows_of_literals = st.lists(lists_of_literals, max_size=4).map(lambda items: f"[{','.join(items)}]")
mutations = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.integers(0, 3),
        st.one_of(
            st.binary(max_size=3),
            st.sampled_from(
                [b"[", b"]", b",", b"[]", b"]]", b"[[", b"{", b"}", b'"', b":", b"\0", b"\xef\xbb\xbf", b"e"]
            )
            | st.sampled_from([b" ", b"\n", b"\x0b", b"\xa0", b"-", b"1", b"\\u0069", b',"scale_factor":2', b"//"]),
        ),
    ),
    max_size=3,
)


def check(body: bytes) -> bool:
    """Whether the quick reader takes the body, in which case pydantic must have read the same."""
    quick = read_batch(body)
    if quick is None:
        return False
    matrix, scale_factor = quick
    read = BatchInput.model_validate_json(body)  # raises if pydantic refuses what was read
    expected = [struct.pack(f"<{len(row)}d", *row) for row in read.instances]
    assert [row.astype("<f8").tobytes() for row in matrix] == expected
    assert struct.pack("<d", scale_factor) == struct.pack("<d", read.scale_factor)
    return True


@given(rectangular, st.none() | st.floats(5e-324, allow_infinity=False))
def test_a_batch_of_finite_numbers_is_read_quickly(rows: list[list[float]], scale_factor: float | None) -> None:
    document = {"instances": rows} | ({} if scale_factor is None else {"scale_factor": scale_factor})

    assert check(json.dumps(document).encode())


@given(rectangular, widths)
def test_a_batch_of_integers_is_read_quickly(rows: list[list[float]], indent: int) -> None:
    integers = [[int(number) % 2**64 - 2**63 for number in row] for row in rows]

    assert check(json.dumps({"scale_factor": 1, "instances": integers}, indent=indent).encode())


@settings(max_examples=250)
@given(rows=rows_of_literals, scale_factor=literals, mutated=mutations)
def test_what_is_read_quickly_pydantic_reads_alike(
    rows: str, scale_factor: str, mutated: list[tuple[int, int, bytes]]
) -> None:
    body = f'{{"instances":{rows},"scale_factor":{scale_factor}}}'.encode()
    for at, gone, come in mutated:
        place = at % (len(body) + 1)
        body = body[:place] + come + body[place + gone :]

    check(body)


@settings(max_examples=250)
@given(rows=rectangular, mutated=mutations)
def test_what_is_read_quickly_after_a_mutation_pydantic_reads_alike(
    rows: list[list[float]], mutated: list[tuple[int, int, bytes]]
) -> None:
    body = json.dumps({"instances": rows}).encode()
    for at, gone, come in mutated:
        place = at % (len(body) + 1)
        body = body[:place] + come + body[place + gone :]

    check(body)


REFUSED = {
    "a byte order mark": b'\xef\xbb\xbf{"instances":[[1,2]]}',
    "a trailing NUL": b'{"instances":[[1,2]]}\0',
    "trailing junk": b'{"instances":[[1,2]]}x',
    "two documents": b'{"instances":[[1,2]]}{"instances":[[1,2]]}',
    "truncated": b'{"instances":[[1,2]]',
    "a vertical tab": b'{"instances":[[1,\x0b2]]}',
    "a flat list": b'{"instances":[1,2]}',
    "nested rows": b'{"instances":[[[1,2]]]}',
    "nested and flat rows": b'{"instances":[[1,2],[[3,4]]]}',
    "a row in a row": b'{"instances":[[1,[2]]]}',
    "ragged rows": b'{"instances":[[1,2],[3],[4,5,6]]}',
    "an empty row": b'{"instances":[[1],[]]}',
    "an empty first row": b'{"instances":[[],[1]]}',
    "no rows": b'{"instances":[]}',
    "only empty rows": b'{"instances":[[],[]]}',
    "an object": b'{"instances":{}}',
    "a text": b'{"instances":"[[1,2]]"}',
    "rows as the scale factor": b'{"instances":[[1]],"scale_factor":[[1]]}',
    "a boolean": b'{"instances":[[true,false]]}',
    "null": b'{"instances":[[1,null]]}',
    "a text in a row": b'{"instances":[[1,"2"]]}',
    "1e999": b'{"instances":[[1,1e999]]}',
    "2**64": b'{"instances":[[1,18446744073709551616]]}',
    "a 400-digit integer": b'{"instances":[[1,' + b"1" * 400 + b"]]}",
    "NaN": b'{"instances":[[1,NaN]]}',
    "an unknown key": b'{"instances":[[1]],"other":1}',
    "a key twice": b'{"instances":[[1]],"instances":[[2]]}',
    "a key twice, once escaped": b'{"instances":[[1]],"\\u0069nstances":[[2]]}',
    "the scale factor twice": b'{"instances":[[1]],"scale_factor":1,"scale_factor":2}',
    "a scale factor of zero": b'{"instances":[[1]],"scale_factor":0}',
    "a negative scale factor": b'{"instances":[[1]],"scale_factor":-1}',
    "a boolean scale factor": b'{"instances":[[1]],"scale_factor":true}',
    "a text as scale factor": b'{"instances":[[1]],"scale_factor":"1"}',
    "null as scale factor": b'{"instances":[[1]],"scale_factor":null}',
    "not UTF-8": b'{"instances":[[1]],"\xff":1}',
    "a list": b"[[1,2]]",
    "nothing": b"",
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_is_doubtful_is_left_to_pydantic(body: bytes) -> None:
    assert read_batch(body) is None


def test_a_refused_batch_leaves_the_reader_as_it_was() -> None:
    for body in REFUSED.values():
        read_batch(body)
        batch = read_batch(b'{"instances":[[1,2],[3,4]]}')
        assert batch is not None
        assert np.array_equal(batch[0], [[1, 2], [3, 4]])


def test_a_batch_keeps_its_numbers_while_the_next_is_read() -> None:
    first = read_batch(b'{"instances":[[1,2]]}')
    second = read_batch(bytearray(b'{"instances":[[3,4]]}'))

    assert first is not None
    assert second is not None
    assert first[0].tolist() == [[1, 2]]
    assert second[0].tolist() == [[3, 4]]


def test_no_number_that_is_not_finite_is_read() -> None:
    for number in (nan, inf, -inf):
        assert read_batch(json.dumps({"instances": [[number]]}).encode()) is None

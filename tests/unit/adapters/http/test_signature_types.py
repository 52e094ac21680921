"""Whatever a signature says: rows that fit it pass unchanged, others are refused with their place."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.contract import JSON
from tests.unit.models import SCORE, constant
from weighbridge.adapters.http.errors import reply_to_invalid
from weighbridge.adapters.http.fast_route import Headers
from weighbridge.adapters.http.model_call import steps
from weighbridge.adapters.http.signature_types import SignatureTypes, example
from weighbridge.adapters.inference import infer
from weighbridge.application.inline import Inline
from weighbridge.application.live import Served
from weighbridge.domain.signature import Column, Kind, Signature

HEADERS: Headers = {name.encode(): value.encode() for name, value in JSON.items()}
examples = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = texts.filter(bool)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.INT: st.integers(-(2**63), 2**63 - 1),
    Kind.FLOAT: st.floats(allow_nan=False, allow_infinity=False),
    Kind.BOOL: st.booleans(),
    Kind.STRING: texts,
}
WRONG: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.INT: st.sampled_from([1.5, 1.0, "1", True, 2**63, [1], {}, None]),
    Kind.FLOAT: st.sampled_from(["1.5", False, 10**400, [1.5], {}, None]),
    Kind.BOOL: st.sampled_from([0, 1, "true", 1.0, [True], {}, None]),
    Kind.STRING: st.sampled_from([1, 1.5, True, ["text"], {}, None]),
}


@st.composite
def columns(draw: st.DrawFn) -> Column:
    kind = draw(st.sampled_from(Kind))
    width = draw(st.none() | st.integers(1, 4))
    categories = draw(st.none() | st.lists(texts, min_size=1, max_size=4, unique=True))
    return Column(
        name=draw(names),
        kind=kind,
        width=width,
        nullable=width is None and draw(st.booleans()),
        categories=None if kind is not Kind.STRING or categories is None else tuple(categories),
    )


signatures = st.lists(columns(), min_size=1, max_size=5, unique_by=lambda column: column.name).map(
    lambda inputs: Signature(tuple(inputs), (SCORE,))
)


@st.composite
def cells(draw: st.DrawFn, column: Column) -> Any:
    values = VALUES[column.kind] if column.categories is None else st.sampled_from(column.categories)
    if column.width is not None:
        return draw(st.lists(values, min_size=column.width, max_size=column.width))
    return draw(values | st.none()) if column.nullable else draw(values)


@st.composite
def rows_of(draw: st.DrawFn, signature: Signature) -> dict[str, Any]:
    """A row that fits, its keys in any order."""
    row = {column.name: draw(cells(column)) for column in signature.inputs}
    return {name: row[name] for name in draw(st.permutations(list(row)))}


def reading(signature: Signature) -> Any:
    """What reads rows for a model of this signature."""
    served = Served("churn", "1", Inline(constant(signature, 0.5), slice_rows=10), max_rows=10)
    return steps(served, SignatureTypes("churn", "1", signature)).read


def as_batch_has_it(signature: Signature, row: dict[str, Any]) -> Any:
    if signature.vector is not None:
        return row[signature.vector.name]
    return tuple(row[column.name] for column in signature.inputs)


@examples
@given(st.data())
def test_rows_that_fit_reach_the_model_unchanged(data: st.DataObject) -> None:
    signature = data.draw(signatures)
    rows = data.draw(st.lists(rows_of(signature), min_size=1, max_size=3))
    expected = [as_batch_has_it(signature, row) for row in rows]
    read = reading(signature)

    alone = read(HEADERS, json.dumps(rows[0]).encode())
    together = read(HEADERS, json.dumps(rows, ensure_ascii=False).encode())

    assert (alone.alone, repr(alone.rows)) == (True, repr(expected[:1]))
    assert (together.alone, repr(together.rows)) == (False, repr(expected))


@examples
@given(st.data())
def test_a_cell_that_does_not_fit_is_refused_with_its_place(data: st.DataObject) -> None:
    signature = data.draw(signatures)
    good, bad = data.draw(rows_of(signature)), data.draw(rows_of(signature))
    column = data.draw(st.sampled_from(signature.inputs))
    wrong = data.draw(WRONG[column.kind].filter(lambda value: value is not None or not column.nullable))
    bad[column.name] = wrong if column.width is None else [*bad[column.name][:-1], wrong]
    place = (column.name,) if column.width is None else (column.name, column.width - 1)
    read = reading(signature)

    for body, before in ((bad, ()), ([good, bad], (1,))):
        with pytest.raises(ValidationError) as caught:
            read(HEADERS, json.dumps(body).encode())
        assert [error["loc"] for error in caught.value.errors()] == [(*before, *place)]


@examples
@given(st.data())
def test_a_row_without_a_key_or_with_another_is_refused(data: st.DataObject) -> None:
    signature = data.draw(signatures)
    row = data.draw(rows_of(signature))
    gone = data.draw(st.sampled_from(list(row)))
    other = data.draw(names.filter(lambda name: name not in row))
    read = reading(signature)

    with pytest.raises(ValidationError) as missing:
        read(HEADERS, json.dumps({name: value for name, value in row.items() if name != gone}).encode())
    with pytest.raises(ValidationError) as unknown:
        read(HEADERS, json.dumps({**row, other: 1}).encode())

    assert [(error["type"], error["loc"]) for error in missing.value.errors()] == [("missing", (gone,))]
    assert [error["type"] for error in unknown.value.errors()] == ["extra_forbidden"]


NOT_ALWAYS_JSON = [
    *(
        b"null",
        b"3",
        b'"text"',
        b"[]",
        b"{}",
        b"[3]",
        b"[[]]",
        b"[{}]",
        b'{"a":1} x',
        b"[" * 300,
        b"\xef\xbb\xbf{}",
    ),
    *(b'{"a":%b}' % literal for literal in (b"1", b"-0", b"-0.0", b"5e-324", b"9007199254740993", b"1e400", b"NaN")),
    *(b'{"a":%b}' % literal for literal in (b"18446744073709551616", b"9" * 400, b"9" * 5000, b"-Infinity", b"01")),
    *(b'{"a":%b}' % literal for literal in (b'"\\u0000"', b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\xff"', b'"\x00"')),
    *(b'[{"a":1},{"a":%b}]' % literal for literal in (b"[]", b"{}", b"null", b"true", b'"1"', b"9" * 400, b"1e400")),
    *(b'{"a":"x","a":1}', b'{"a":1,"b":2,"c":3}', b'{"b":2,"c":3}', b'[{"a":1},{"b":[]}]', b'[{"a":1},7,{}]'),
]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("body", NOT_ALWAYS_JSON)
def test_a_large_body_gets_what_a_small_one_gets(kind: Kind, body: bytes) -> None:
    read = reading(Signature((Column(name="a", kind=kind),), (SCORE,)))

    def outcome(content: bytes) -> object:
        try:
            return repr(read(HEADERS, content))
        except ValidationError as exc:
            return reply_to_invalid(exc, "an id", ["a"])

    assert outcome(body + b" " * 300_000) == outcome(body)


@examples
@given(signatures)
def test_the_example_of_a_signature_fits_it(signature: Signature) -> None:
    row = example(signature.inputs)

    assert repr(reading(signature)(HEADERS, json.dumps(row).encode()).rows) == repr([as_batch_has_it(signature, row)])


def test_a_frame_that_is_sent_as_the_guide_says_fits_what_was_told_from_it() -> None:
    frame = pd.DataFrame(
        {
            "float": [1.5, np.nan],
            "single": np.array([0.1, np.nan], np.float32),
            "int": np.array([1, 2]),
            "small": np.array([1, 2], np.uint8),
            "bool": [True, False],
            "text": ["a", None],
            "category": pd.Categorical(["b", None]),
            "Int64": pd.array([1, None], "Int64"),
            "boolean": pd.array([True, None], "boolean"),
            "string": pd.array(["a", None], "string"),
        },
        index=[7, 7],
    )
    described = infer(frame)

    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")

    asked = reading(Signature(described.inputs, (SCORE,)))(HEADERS, json.dumps(rows, allow_nan=False).encode())
    assert [repr(row) for row in asked.rows] == [repr(tuple(row)) for row in described.rows]


def schema_of(*inputs: Column) -> Any:
    """The properties of a row, as OpenAPI shows them."""
    _, _, schemas = SignatureTypes("churn", "1", Signature(inputs, (SCORE,))).schemas("{model}")
    return schemas["churn_Row"]["properties"]


def test_a_schema_shows_what_a_column_takes() -> None:
    properties = schema_of(
        Column(name="age of the client", kind=Kind.INT, minimum=18, maximum=90.5),
        Column(name="income", kind=Kind.FLOAT, nullable=True),
        Column(name="month", kind=Kind.STRING, categories=("June", "July")),
        Column(name="pixels", kind=Kind.BOOL, width=3),
    )

    assert properties == {
        "age of the client": {
            "title": "age of the client",
            "description": "Seen from 18 to 90.5.",
            "type": "integer",
            "minimum": -(2**63),
            "maximum": 2**63 - 1,
        },
        "income": {"title": "income", "anyOf": [{"type": "number"}, {"type": "null"}]},
        "month": {"title": "month", "type": "string", "enum": ["June", "July"]},
        "pixels": {
            "title": "pixels",
            "type": "array",
            "items": {"type": "boolean"},
            "minItems": 3,
            "maxItems": 3,
        },
    }


def test_an_example_is_of_what_was_seen() -> None:
    age = Column(name="age", kind=Kind.INT, minimum=18, maximum=90)
    income = Column(name="income", kind=Kind.FLOAT, width=2, minimum=0.5, maximum=7)
    month = Column(name="month", kind=Kind.STRING, categories=("June", "July"))

    assert example([age, income, month]) == {"age": 18, "income": [0.5, 0.5], "month": "June"}

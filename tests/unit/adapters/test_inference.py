from typing import Any

import numpy as np
import pandas as pd
import pytest

from weighbridge.adapters.inference import infer
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind


def column(values: Any, **options: Any) -> Column:
    [inferred] = infer(pd.DataFrame({"a": pd.Series(values, **options)})).inputs
    return inferred


@pytest.mark.parametrize(
    "example", [[[1, 2], [3, 4]], [(1.0, 2.0), (3.0, 4.0)], np.array([[1, 2], [3, 4]], np.float32)]
)
def test_rows_of_numbers_are_one_vector(example: Any) -> None:
    inferred = infer(example)

    assert inferred.inputs == (Column(name="features", kind=Kind.FLOAT, width=2),)
    assert np.asarray(inferred.rows).tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("values", "kind", "nullable"),
    [
        (pd.Series([True, False]), Kind.BOOL, False),
        (pd.Series([True, None], dtype="boolean"), Kind.BOOL, True),
        (pd.Series([True, None], dtype=object), Kind.BOOL, True),
        (pd.Series(["a", "b"]), Kind.STRING, False),
        (pd.Series(["a", None]), Kind.STRING, True),
        (pd.Series(["a", np.nan], dtype=object), Kind.STRING, True),
    ],
)
def test_booleans_and_texts_have_no_range(values: Any, kind: Kind, *, nullable: bool) -> None:
    assert column(values) == Column(name="a", kind=kind, nullable=nullable)


@pytest.mark.parametrize(
    ("values", "kind", "nullable"),
    [
        (pd.Series([3, 1, 2]), Kind.INT, False),
        (pd.Series([3, 1, 2], dtype="uint8"), Kind.INT, False),
        (pd.Series([3, None, 1], dtype="Int64"), Kind.INT, True),
        (pd.Series([3, 1], dtype="category"), Kind.INT, False),
        (pd.Series([3, None, 1]), Kind.FLOAT, True),
        (pd.Series([3.0, 1.5, 1.0], dtype="float32"), Kind.FLOAT, False),
        (pd.Series([3.0, pd.NA, 1.0], dtype="Float64"), Kind.FLOAT, True),
        (pd.Series([3, 1.0], dtype=object), Kind.FLOAT, False),
    ],
)
def test_numbers_have_the_range_of_the_example(values: Any, kind: Kind, *, nullable: bool) -> None:
    assert column(values) == Column(name="a", kind=kind, nullable=nullable, minimum=1.0, maximum=3.0)


def test_categories_that_are_texts_are_closed() -> None:
    assert column(["b", None], dtype=pd.CategoricalDtype(["a", "b"])) == Column(
        name="a", kind=Kind.STRING, nullable=True, categories=("a", "b")
    )


def test_cells_are_pythons_own_values() -> None:
    frame = pd.DataFrame(
        {
            "whole": pd.Series([1, None], dtype="Int64"),
            "part": [np.nan, 2],
            "text": pd.Series(["a", None], dtype="category"),
            "truth": pd.Series([None, np.bool_(True)], dtype=object),
        }
    )

    rows = infer(frame).rows

    assert rows == [(1, None, "a", None), (None, 2.0, None, True)]
    assert [type(cell) for cell in (*rows[0], *rows[1])] == [
        *(int, type(None), str, type(None)),
        *(type(None), float, type(None), bool),
    ]


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (pd.DataFrame({"a": pd.to_datetime(["2026-01-01"])}), "booleans, numbers or texts in column a, got datetime64"),
        (pd.DataFrame({"a": [1, "b"]}), "booleans, numbers or texts in column a, got object"),
        (pd.DataFrame({"a": [None, None]}), "booleans, numbers or texts in column a"),
        (pd.DataFrame({"a": [1j]}), "booleans, numbers or texts in column a, got complex128"),
        (pd.DataFrame({"a": [1.0, -np.inf]}), "column a holds an infinity"),
        (pd.DataFrame({0: [1.0]}), "names of columns must be texts, got 0 of type int"),
        (pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]), "the example: two inputs have the same name"),
        (pd.DataFrame({"": [1.0]}), "names of columns must be texts, got '' of type str"),
        (pd.DataFrame({"a": pd.Series([], dtype=float)}), "expected an example of one or more rows, got none"),
        (np.empty((0, 3)), "expected an example of one or more rows, got none"),
        (pd.DataFrame(index=[0]), "the example: expected one or more inputs, got none"),
        ([[1.0], [1.0, 2.0]], "the rows of the example have different lengths"),
        ([1.0, 2.0], r"numbers of shape \(n, width\), as the example, got float64 of shape \(2,\)"),
        ([["1", "2"]], r"numbers of shape \(n, width\), as the example, got <U1"),
        (np.empty((1, 0)), r"got float64 of shape \(1, 0\)"),
        ([[1.0, np.nan]], "the example holds numbers that are not finite"),
    ],
)
def test_an_example_that_tells_no_signature_is_refused(example: Any, reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        infer(example)

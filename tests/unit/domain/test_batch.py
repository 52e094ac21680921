import numpy as np
import pytest

from weighbridge.domain.batch import Batch
from weighbridge.domain.signature import Column, Kind, Signature

_OUTPUTS = (Column(name="prediction", kind=Kind.FLOAT),)
_VECTOR = Signature((Column(name="features", kind=Kind.FLOAT, width=2),), _OUTPUTS)
_MIXED = Signature(
    (
        Column(name="age", kind=Kind.INT, nullable=True),
        Column(name="weight", kind=Kind.FLOAT),
        Column(name="member", kind=Kind.BOOL),
        Column(name="month", kind=Kind.STRING, categories=("May", "June"), nullable=True),
        Column(name="place", kind=Kind.FLOAT, width=2),
    ),
    _OUTPUTS,
)
_ROWS = [(30, 70.5, True, "June", [1.0, 2.0]), (None, 60.0, False, None, [3.0, 4.0])]


def test_vectors_are_a_matrix_and_one_column() -> None:
    batch = Batch(_VECTOR, [[1.0, 2.0], [3.0, 4.0]])

    assert len(batch) == 2
    assert batch.matrix().tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert batch.columns()["features"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_matrix_has_places_for_categories_and_nan_for_nulls() -> None:
    np.testing.assert_array_equal(
        Batch(_MIXED, _ROWS).matrix(np.float32),
        np.array([[30, 70.5, 1, 1, 1, 2], [np.nan, 60, 0, np.nan, 3, 4]], np.float32),
    )


def test_columns_have_the_types_of_their_kinds() -> None:
    columns = Batch(_MIXED, _ROWS).columns()

    assert {name: (values.dtype.kind, values.shape) for name, values in columns.items()} == {
        "age": ("f", (2,)),
        "weight": ("f", (2,)),
        "member": ("b", (2,)),
        "month": ("O", (2,)),
        "place": ("f", (2, 2)),
    }
    assert columns["month"].tolist() == ["June", None]
    np.testing.assert_array_equal(columns["age"], [30.0, np.nan])


@pytest.mark.parametrize(("signature", "width"), [(_VECTOR, 2), (_MIXED, 6)])
def test_no_rows_are_as_wide_as_some(signature: Signature, width: int) -> None:
    batch = Batch(signature, [])

    assert batch.matrix().shape == (0, width)
    assert all(len(values) == 0 and values.ndim in (1, 2) for values in batch.columns().values())


def test_texts_that_are_no_categories_have_no_number() -> None:
    with pytest.raises(ValueError, match="could not convert string"):
        Batch(Signature((Column(name="name", kind=Kind.STRING),), _OUTPUTS), [("Ada",)]).matrix()


def test_a_matrix_of_rows_without_vectors_has_places_for_categories() -> None:
    month = Column(name="month", kind=Kind.STRING, categories=("May", "June"))
    signature = Signature((Column(name="age", kind=Kind.INT), month), _OUTPUTS)

    assert Batch(signature, [(30, "June"), (40, "May")]).matrix().tolist() == [[30, 1], [40, 0]]

import pytest

from weighbridge.domain.errors import InvalidSignature
from weighbridge.domain.signature import Column, Kind, Signature

AGE = Column(name="age", kind=Kind.INT)
MONTH = Column(name="month", kind=Kind.STRING, categories=("June", "July"))
VECTOR = Column(name="features", kind=Kind.FLOAT, width=4)
SCORE = Column(name="score", kind=Kind.FLOAT)


def test_a_column_has_a_name() -> None:
    with pytest.raises(InvalidSignature, match="a column has an empty name"):
        Column(name="", kind=Kind.INT)


@pytest.mark.parametrize(("width", "nullable"), [(0, False), (-1, False), (3, True)])
def test_a_vector_has_a_positive_width_and_no_nulls(width: int, *, nullable: bool) -> None:
    with pytest.raises(InvalidSignature, match="column v: a vector has a positive width and no nulls"):
        Column(name="v", kind=Kind.FLOAT, width=width, nullable=nullable)


@pytest.mark.parametrize(
    ("kind", "categories"), [(Kind.INT, ("1",)), (Kind.STRING, ()), (Kind.STRING, ("June", "June"))]
)
def test_categories_are_distinct_texts(kind: Kind, categories: tuple[str, ...]) -> None:
    with pytest.raises(InvalidSignature, match="column month: categories must be distinct"):
        Column(name="month", kind=kind, categories=categories)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ((), (SCORE,), "expected one or more inputs, got none"),
        ((AGE,), (), "expected one or more outputs, got none"),
        ((AGE, AGE), (SCORE,), "two inputs have the same name"),
        ((AGE,), (SCORE, SCORE), "two outputs have the same name"),
    ],
)
def test_a_signature_has_columns_with_names_of_their_own_on_either_side(
    inputs: tuple[Column, ...], outputs: tuple[Column, ...], message: str
) -> None:
    with pytest.raises(InvalidSignature, match=message):
        Signature(inputs, outputs)


@pytest.mark.parametrize(("name", "categories"), [("a\ud800", None), ("month", ("June", "\udfff"))])
def test_names_and_categories_are_whole_characters(name: str, categories: tuple[str, ...] | None) -> None:
    with pytest.raises(InvalidSignature, match="names and categories must be valid Unicode"):
        Column(name=name, kind=Kind.STRING, categories=categories)


def test_only_a_vector_alone_is_the_vector_of_a_signature() -> None:
    assert Signature((VECTOR,), (SCORE,)).vector is VECTOR
    assert Signature((AGE,), (SCORE,)).vector is None
    assert Signature((VECTOR, AGE), (SCORE,)).vector is None


def test_a_row_is_as_wide_as_its_inputs_side_by_side() -> None:
    assert Signature((VECTOR, AGE, MONTH), (SCORE,)).width == 6


def test_the_code_of_a_category_is_its_place() -> None:
    assert Signature((AGE, MONTH), (SCORE,)).codes == (None, {"June": 0, "July": 1})


def test_signatures_of_the_same_columns_are_equal() -> None:
    assert Signature((AGE, MONTH), (SCORE,)) == Signature((AGE, MONTH), (SCORE,))
    assert Signature((AGE, MONTH), (SCORE,)) != Signature((MONTH, AGE), (SCORE,))

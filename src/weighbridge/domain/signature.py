"""What a model takes and gives: columns with names, types and widths."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from weighbridge.domain.errors import InvalidSignature


class Kind(StrEnum):
    """The type of a column's values."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STRING = "string"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One named input or output.

    `width` is None for one value a row, otherwise each row has a vector of that many. Only values of `categories` fit
    a column that has them; in an output they are the classes, in the order of their probabilities. `minimum` and
    `maximum` are what an example held: they tell a reader what to expect, and refuse nothing.
    Raises InvalidSignature.
    """

    name: str
    kind: Kind
    width: int | None = None
    nullable: bool = False
    categories: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidSignature("a column has an empty name")
        if any("\ud800" <= char <= "\udfff" for text in (self.name, *(self.categories or ())) for char in text):
            raise InvalidSignature(f"names and categories must be valid Unicode: {self.name!a}")
        if self.width is not None and (self.width < 1 or self.nullable):
            raise InvalidSignature(f"column {self.name}: a vector has a positive width and no nulls")
        if self.categories is not None and (
            self.kind is not Kind.STRING or not self.categories or len({*self.categories}) < len(self.categories)
        ):
            raise InvalidSignature(f"column {self.name}: categories must be distinct, and the column of type string")


@dataclass(frozen=True, slots=True)
class Signature:
    """The columns of a model, in its own order; names are unique on either side.

    Raises InvalidSignature.
    """

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]
    vector: Column | None = field(init=False, repr=False, compare=False)
    """The only input, when that is a vector: then a row is no more than its numbers."""
    width: int = field(init=False, repr=False, compare=False)
    """Of a row whose inputs stand side by side."""
    codes: tuple[Mapping[str | None, int] | None, ...] = field(init=False, repr=False, compare=False)
    """For each input the indices of its categories, None where it has none."""

    def __post_init__(self) -> None:
        for side, columns in (("input", self.inputs), ("output", self.outputs)):
            if not columns:
                raise InvalidSignature(f"expected one or more {side}s, got none")
            if len({column.name for column in columns}) < len(columns):
                raise InvalidSignature(f"two {side}s have the same name")
        [first, *others] = self.inputs
        derived = {
            "vector": first if first.width is not None and not others else None,
            "width": sum(column.width or 1 for column in self.inputs),
            "codes": tuple(map(_codes, self.inputs)),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def _codes(column: Column) -> Mapping[str | None, int] | None:
    return None if column.categories is None else {name: code for code, name in enumerate(column.categories)}

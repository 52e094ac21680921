"""The types of a model's rows and answers, made of its signature: pydantic validates by them, OpenAPI shows them."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import typing_extensions
from pydantic import ConfigDict, FailFast, Field, TypeAdapter
from pydantic.config import JsonDict

from weighbridge.domain.signature import Column, Kind, Signature

Schema = dict[str, Any]

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""How all of a body is validated."""

_INT64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
_TYPES: Mapping[Kind, Any] = {Kind.INT: _INT64, Kind.FLOAT: float, Kind.BOOL: bool, Kind.STRING: str}
_EXAMPLES: Mapping[Kind, Any] = {Kind.INT: 1, Kind.FLOAT: 1.5, Kind.BOOL: True, Kind.STRING: "text"}

_typed_dict: Any = typing_extensions.TypedDict  # made of names that are known only when the program runs


class SignatureTypes:
    """The types of one version of a model.

    `row` is a dictionary with just the inputs, under their own names, whatever these are; `rows` is a list of them,
    read up to its first bad row, of which all is told. `cells` are such a list without the names: of tuples, or of
    vectors where these are the only input. `answer` and `answers` are the replies to a row and to rows.
    """

    def __init__(self, model: str, version: str, signature: Signature) -> None:
        outputs = _fields(signature.outputs)
        self._prefix = f"{model}_"
        prediction = self._titled("Prediction", outputs) if len(outputs) > 1 else next(iter(outputs.values()))
        about = {"status": Literal["success"], "model": Literal[model], "version": Literal[version]}
        inputs = _fields(signature.inputs)
        self.row: Any = self._titled("Row", inputs, STRICT)
        self.rows: Any = _list_of(self.row)
        [one, *_] = cells = inputs.values()
        row_of_cells = Annotated[tuple.__class_getitem__((*cells,)), FailFast()] if signature.vector is None else one
        self.cells: Any = _list_of(row_of_cells)
        self.answer: Any = self._titled("Answer", {"prediction": prediction, **about})
        self.answers: Any = self._titled("Answers", {"predictions": list.__class_getitem__(prediction), **about})

    def schemas(self, ref_template: str) -> tuple[Schema, Schema, Schema]:
        """The schemas of a request's body and of the reply, and by name those that they refer to.

        Their names begin with the model's name, which pydantic is not told: it drops what is before a dot.
        """
        parts = (self.row, self.rows, self.answer, self.answers)
        adapters: Any = [(place, "validation", TypeAdapter(part)) for place, part in enumerate(parts)]
        prefixed = ref_template.format(model=f"{self._prefix}{{model}}")
        by_place, definitions = TypeAdapter.json_schemas(adapters, ref_template=prefixed)
        row, rows, answer, answers = by_place.values()
        schemas = {f"{self._prefix}{name}": schema for name, schema in definitions["$defs"].items()}
        return {"anyOf": [row, rows]}, {"anyOf": [answer, answers]}, schemas

    def _titled(self, name: str, fields: Mapping[str, Any], config: ConfigDict | None = None) -> Any:
        made = _typed_dict(name, fields)
        made.__pydantic_config__ = ConfigDict(**(config or {}), title=f"{self._prefix}{name}")
        return made


def example(columns: Iterable[Column]) -> dict[str, Any]:
    """Values that fit these columns, by their names."""
    return {column.name: _example(column) for column in columns}


def _list_of(row: Any) -> Any:
    return Annotated[list.__class_getitem__(row), Field(min_length=1), FailFast()]


def _fields(columns: Iterable[Column]) -> dict[str, Any]:
    return {
        column.name: Annotated[_type(column), Field(title=column.name, description=_description(column))]
        for column in columns
    }


def _type(column: Column) -> Any:
    values = _TYPES[column.kind] if column.categories is None else Literal[column.categories]
    if column.width is not None:
        size: JsonDict = {
            "minItems": column.width,
            "maxItems": column.width,
        }  # told, but not checked: that is the model's part
        return Annotated[list.__class_getitem__(values), FailFast(), Field(json_schema_extra=size)]
    return values | None if column.nullable else values


def _description(column: Column) -> str | None:
    if column.minimum is None or column.maximum is None:
        return None
    return f"Seen from {column.minimum:g} to {column.maximum:g}."


def _example(column: Column) -> Any:
    value = _EXAMPLES[column.kind] if column.categories is None else column.categories[0]
    if column.categories is None and column.minimum is not None:
        value = int(column.minimum) if column.kind is Kind.INT else column.minimum
    return value if column.width is None else [value] * column.width

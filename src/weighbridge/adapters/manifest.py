"""`model.toml` and `rollout.toml`: what a version of a model is, and which version is live.

No numpy and no runtime here: the supervisor reads manifests, too.
"""

import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from weighbridge.domain.errors import InvalidSignature, ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of models."""

VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")
"""Versions, which are ordered number by number: 2 is before 10, and 1.2 before 1.10."""

MANIFEST = "model.toml"
ROLLOUT = "rollout.toml"

RuntimeName = Literal["linear", "onnx", "sklearn", "xgboost", "lightgbm", "python"]

Value = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]
"""What a cell of a golden row holds, in TOML's own types; a null is left out."""


def order(version: str) -> tuple[int, ...]:
    """By which versions are sorted."""
    return tuple(map(int, version.split(".")))


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, text: bytes, file: str) -> Self:
        """What a `file` says. Raises ModelRefused, naming the file, the key and what was expected."""
        try:
            return cls.model_validate(tomllib.loads(text.decode()))
        except ValidationError as exc:
            [error, *_] = exc.errors(include_url=False, include_input=False)
            where = ".".join(map(str, error["loc"]))
            raise ModelRefused(f"{file}: {where or 'the whole'}: {error['msg']}") from exc
        except (ValueError, RecursionError) as exc:  # TOML's and UTF-8's errors are ValueErrors
            raise ModelRefused(f"{file}: expected TOML in UTF-8, got what is not: {exc}") from exc

    def render(self) -> bytes:
        """As TOML, without what has its default."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_defaults=True)).encode()


class ColumnSpec(_Strict):
    """A column as `model.toml` has it."""

    name: str
    type: Literal["int", "float", "bool", "string"]
    width: int | None = None
    nullable: bool = False
    categories: list[str] | None = None
    minimum: float | None = None
    maximum: float | None = None

    @classmethod
    def of(cls, column: Column) -> Self:
        """The specification of a column."""
        return cls(
            name=column.name,
            type=column.kind.value,
            width=column.width,
            nullable=column.nullable,
            categories=None if column.categories is None else list(column.categories),
            minimum=column.minimum,
            maximum=column.maximum,
        )

    def column(self) -> Column:
        """The column that it specifies. Raises InvalidSignature."""
        return Column(
            name=self.name,
            kind=Kind(self.type),
            width=self.width,
            nullable=self.nullable,
            categories=None if self.categories is None else tuple(self.categories),
            minimum=self.minimum,
            maximum=self.maximum,
        )


class Golden(_Strict):
    """A row whose prediction is known."""

    input: dict[str, Value]
    output: dict[str, Value]


class Manifest(_Strict):
    """`model.toml`: one version of a model.

    `artefact` is the name of a file beside it, of which `sha256` is the digest in hexadecimal; `entry` is what the
    runtime `python` imports in place of one, `module:Class`.
    """

    runtime: RuntimeName
    artefact: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    entry: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    inputs: Annotated[list[ColumnSpec], Field(min_length=1)]
    outputs: Annotated[list[ColumnSpec], Field(min_length=1)]
    golden: list[Golden] = []
    libraries: dict[str, str] = {}

    def signature(self) -> Signature:
        """The signature that it states. Raises InvalidSignature."""
        return Signature(tuple(spec.column() for spec in self.inputs), tuple(spec.column() for spec in self.outputs))

    @classmethod
    def read(cls, text: bytes, file: str) -> "Manifest":
        """The manifest in a file, checked as a whole. Raises ModelRefused."""
        manifest = cls.parse(text, file)
        try:
            manifest.signature()
        except InvalidSignature as exc:
            raise ModelRefused(f"{file}: {exc}") from exc
        if manifest.runtime == "python" and manifest.entry is None:
            raise ModelRefused(f"{file}: entry: expected module:Class for the runtime python, got none")
        if manifest.runtime != "python" and (manifest.artefact is None or manifest.entry is not None):
            raise ModelRefused(f"{file}: expected artefact and no entry for the runtime {manifest.runtime}")
        if (manifest.artefact is None) is not (manifest.sha256 is None):
            raise ModelRefused(f"{file}: expected artefact and sha256 together, got one of them")
        return manifest


class Rollout(_Strict):
    """`rollout.toml`: the version that is live, and the one that was before it."""

    live: Annotated[str, Field(pattern=f"^{VERSION.pattern}$")]
    previous: Annotated[str, Field(pattern=f"^{VERSION.pattern}$")] | None = None


def row_of(signature: Signature, cells: Mapping[str, Any]) -> Any:
    """A golden row's cells as `Batch` wants a row; what is left out is null. Raises KeyError for a missing vector."""
    vector = signature.vector
    if vector is not None:
        return cells[vector.name]
    return tuple(cells.get(column.name) for column in signature.inputs)

"""`model.toml` and `rollout.toml`: what a version of a model is; which version is live, and how it is run.

No numpy and no runtime here: the supervisor reads manifests, too.
"""

import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import PydanticCustomError

from weighbridge.domain.errors import InvalidSignature, ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature
from weighbridge.settings import NO_RIGHTS, Rights

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of models."""

VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")
"""Versions, which are ordered number by number: 2 is before 10, and 1.2 before 1.10."""

MANIFEST = "model.toml"
ROLLOUT = "rollout.toml"

RuntimeName = Literal["linear", "onnx", "sklearn", "xgboost", "lightgbm", "python"]

CODE: tuple[RuntimeName, ...] = ("python",)
"""Runtimes whose formats are code: what a version of theirs may do, its author says."""

_Version = Annotated[str, Field(pattern=f"^{VERSION.pattern}$")]
_MOST_TOLD = 1000
_MOST = 2**63 - 1  # of a TOML integer; tomllib reads larger ones

Value = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]
"""What a cell of a golden row holds, in TOML's own types; a null is left out."""

ItemT = TypeVar("ItemT")
_List = Annotated[list[ItemT], Field(fail_fast=True)]  # a million errors would take seconds, and one is told


def _kind(cell: object) -> str:
    """The tag of the type that a cell should be of: integers among floats are floats, too."""
    if not isinstance(cell, list):
        return type(cell).__name__
    kinds = {type(value).__name__ for value in cell}
    return f"{'float' if kinds == {'float', 'int'} else min(kinds, default='bool')}s"


# Without tags, a cell that is of no type would be a list of errors, one for each type.
_Cell = Annotated[
    Annotated[bool, Tag("bool")]
    | Annotated[int, Tag("int")]
    | Annotated[float, Tag("float")]
    | Annotated[str, Tag("str")]
    | Annotated[_List[bool], Tag("bools")]
    | Annotated[_List[int], Tag("ints")]
    | Annotated[_List[float], Tag("floats")]
    | Annotated[_List[str], Tag("strs")],
    Discriminator(
        _kind,
        custom_error_type="cell",
        custom_error_message="Input should be a boolean, a number, a string or an array of one of these",
    ),
]


def order(version: str) -> tuple[int, ...]:
    """By which versions are sorted."""
    return tuple(map(int, version.split(".")))


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, text: bytes, file: str) -> Self:
        """The content of a `file`. Raises ModelRefused, which names the file, the key and the reason."""
        try:
            values = tomllib.loads(text.decode())
        except (ValueError, RecursionError) as exc:  # TOML's and UTF-8's errors are ValueErrors
            raise _refused(file, f"not valid TOML in UTF-8: {exc}") from exc
        return cls.checked(values, file)

    @classmethod
    def checked(cls, values: Mapping[str, Any], source: str) -> Self:
        """What these values say. Raises ModelRefused, naming the source, the key and what was expected."""
        try:
            return cls.model_validate(values)
        except ValidationError as exc:
            [error, *_] = exc.errors(include_url=False, include_input=False)
            where = ".".join(map(str, error["loc"]))
            raise _refused(source, ": ".join(filter(None, (where, error["msg"])))) from exc


def _refused(file: str, reason: str) -> ModelRefused:
    """A reason of bounded length: it may quote a key, which may be as long as the file."""
    return ModelRefused(f"{file}: {reason if len(reason) <= _MOST_TOLD else reason[:_MOST_TOLD] + '...'}")


class ColumnSpec(_Strict):
    """A column as `model.toml` has it."""

    name: str
    type: Literal["int", "float", "bool", "string"]
    width: int | None = None
    nullable: bool = False
    categories: _List[str] | None = None
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

    input: dict[str, _Cell]
    output: dict[str, _Cell]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("printable", "it must be one line of printable characters")
    return text


class About(_Strict):
    """What people are told of a version: each a line, or None where nothing is said."""

    title: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)] | None = None
    description: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)] | None = None
    owner: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)] | None = None

    @classmethod
    def of(cls, about: "About") -> "About":
        """No more than this of a manifest."""
        return About(**about.model_dump(include={*About.model_fields}))


class Manifest(About):
    """`model.toml`: one version of a model.

    `artefact` is the name of a file beside it, of which `sha256` is the digest in hexadecimal; `entry` is what the
    runtime `python` imports in place of one, `module:Class`.
    """

    runtime: RuntimeName
    artefact: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    entry: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    inputs: Annotated[_List[ColumnSpec], Field(min_length=1)]
    outputs: Annotated[_List[ColumnSpec], Field(min_length=1)]
    golden: _List[Golden] = []
    libraries: dict[str, str] = {}

    def signature(self) -> Signature:
        """The signature that it states. Raises InvalidSignature."""
        return Signature(tuple(spec.column() for spec in self.inputs), tuple(spec.column() for spec in self.outputs))

    def render(self) -> bytes:
        """As TOML, without what has its default."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_defaults=True)).encode()

    @classmethod
    def read(cls, text: bytes, file: str) -> "Manifest":
        """The manifest in a file, checked as a whole. Raises ModelRefused."""
        manifest = cls.parse(text, file)
        try:
            manifest.signature()
        except InvalidSignature as exc:
            raise _refused(file, str(exc)) from exc
        if manifest.runtime == "python" and manifest.entry is None:
            raise ModelRefused(f"{file}: entry: the runtime python needs module:Class")
        if manifest.runtime != "python" and (manifest.artefact is None or manifest.entry is not None):
            raise ModelRefused(f"{file}: the runtime {manifest.runtime} needs an artefact, and takes no entry")
        if (manifest.artefact is None) is not (manifest.sha256 is None):
            raise ModelRefused(f"{file}: artefact and sha256 must be given together")
        return manifest


class Options(_Strict):
    """How a version is to be run.

    `placement` is where it computes: inline, in the workers, or in a runner, a process of its own; None leaves that to
    the cost that is measured. `instances` is the number of its runners, and `threads` the number of threads that each
    computes with, which the service chooses if it is None. One call of the model takes at most `max_batch_rows` rows
    and `call_timeout` seconds, and a runner at most `memory` bytes; None stands for the service's own settings.
    `repeat` says whether a call for several requests that fails is repeated for fewer of them. `rights` are what a
    version may do beyond computing, within the setting `grants`.
    """

    placement: Literal["inline", "runner"] | None = None
    instances: Annotated[int, Field(ge=1, le=64)] = 1
    threads: Annotated[int, Field(ge=1, le=_MOST)] | None = None
    max_batch_rows: Annotated[int, Field(ge=1, le=_MOST)] = 256
    call_timeout: Annotated[float, Field(gt=0)] | None = None
    memory: Annotated[int, Field(ge=1024**2, le=_MOST)] | None = None
    repeat: bool = True
    rights: Rights = NO_RIGHTS


class Rollout(Options):
    """`rollout.toml`: the version that is live, the one that was before it, and how versions are to be run.

    Without `live` the highest version is. The options at the top hold for all versions, those of `versions` for one.
    """

    live: _Version | None = None
    previous: _Version | None = None
    versions: dict[_Version, Options] = {}

    def options(self, version: str) -> Options:
        """The options of one version: its own where they are written, else those at the top."""
        top = self.model_dump(include={*Options.model_fields}, exclude_unset=True)
        own = self.versions.get(version, Options()).model_dump(exclude_unset=True)
        return Options(**{**top, **own})


def pinned(text: bytes, file: str, *, live: str, previous: str | None) -> bytes:
    """The text of a rollout with these versions as `live` and `previous`, all else in it as it was: comments, too.

    Raises ModelRefused when it is no rollout.
    """
    import tomlkit

    Rollout.parse(text, file)
    # After a dotted key at the very end, without a line break, tomlkit writes the next key into the same line.
    document = tomlkit.parse(text + b"\n" if text and not text.endswith(b"\n") else text)
    document["live"] = live
    if previous is None:
        document.pop("previous", None)
    else:
        document["previous"] = previous
    changed = document.as_string().encode()
    Rollout.parse(changed, file)  # a file that nobody can read would keep the service from starting
    return changed


def row_of(signature: Signature, cells: Mapping[str, Any]) -> Any:
    """A golden row's cells as `Batch` wants a row; what is left out is null. Raises KeyError for a missing vector."""
    vector = signature.vector
    if vector is not None:
        return cells[vector.name]
    return tuple(cells.get(column.name) for column in signature.inputs)

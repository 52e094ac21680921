"""What a runner is told to open, and what it tells of it."""

from dataclasses import dataclass
from typing import Annotated, Self

import orjson
from pydantic import Field, TypeAdapter

from weighbridge.settings import NO_RIGHTS, Rights

_SLICE_SECONDS = 0.005
_MOST_SLICE_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Order:
    """A version to open; its manifest as it was read, whatever has become of the file since.

    `memory` is the most that the process may have, in bytes. A call that raises is made again in halves of its
    requests where it may be `repeated`. Beyond computing it has these `rights`, and those to its `scratch` directory.
    """

    name: str
    version: str
    manifest: str
    threads: int
    memory: int
    max_batch_rows: int
    repeat: bool
    rights: Rights = NO_RIGHTS
    scratch: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a runner tells of a version that it has opened: how many golden rows it has, and what a call takes.

    A call of n rows takes about `call_seconds` and n times `row_seconds`, `one_row_seconds` for a single one.
    """

    golden: Annotated[int, Field(ge=0)]
    call_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    row_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @property
    def one_row_seconds(self) -> float:
        """Of a call with one row."""
        return self.call_seconds + self.row_seconds

    @property
    def slice_rows(self) -> int:
        """How many rows a call of 5 ms has."""
        rows = (_SLICE_SECONDS - self.call_seconds) / max(self.row_seconds, _SLICE_SECONDS / _MOST_SLICE_ROWS)
        return max(1, int(rows))

    def text(self) -> str:
        """As a text that `read` takes."""
        return orjson.dumps(self).decode()

    @classmethod
    def read(cls, text: str) -> Self:
        """The report in a text. Raises ValueError."""
        return TypeAdapter(cls).validate_json(text, strict=True)

"""Trained models from the repository: opened by their runtimes, and believed once they predict what they should."""

import operator
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isclose
from typing import Any

from weighbridge.adapters.manifest import MANIFEST, Manifest, RuntimeName, Value, row_of
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runtimes import Runtime, Trust, runtime
from weighbridge.application.ports import Model
from weighbridge.domain.batch import DTYPES, Batch
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Kind, Signature

_WARMING = 3  # first calls build what later ones reuse
_MOST_ALONE = 8
# Another processor or version of a library adds the same numbers in another order, and many models do so in float32,
# which rounds by 6e-8: a sum of hundreds stays within these, and no other model gives the same rows as close.
_RELATIVE = 1e-5
_ABSOLUTE = 1e-6
_TYPES = {Kind.INT: int, Kind.BOOL: bool, Kind.STRING: str}


class Loader:
    """Loads versions of models from a repository; implements ModelLoader."""

    def __init__(
        self, repository: Repository, trust: Trust, runtimes: Callable[[RuntimeName], Runtime] = runtime
    ) -> None:
        self._repository = repository
        self._trust = trust
        self._runtimes = runtimes

    def load(self, name: str, version: str, manifest: Manifest | None = None) -> Model:
        """A version whose digest is checked, whose golden rows are as they were, and which is warm.

        Its manifest has been read already, or is read now. Raises ModelRefused: the message names the file, and is one
        line.
        """
        manifest = manifest or self._repository.manifest(name, version)
        artefact = self._repository.artefact(name, version, manifest)
        directory = f"models/{name}/{version}"
        stated = f"{directory}/{MANIFEST}"
        opened = f"{directory}/{manifest.artefact or MANIFEST}"
        signature = manifest.signature()
        with _told(stated, "golden rows"):
            goldens = _Goldens(manifest, signature)
        with _told(opened, f"what the runtime {manifest.runtime} loads"):
            model = self._runtimes(manifest.runtime).load(artefact, manifest, self._trust)
            reported = model.signature
        if reported != signature:
            raise ModelRefused(f"{opened}: expected the inputs and outputs that {MANIFEST} states, got others")
        with _told(stated, "golden rows that the model predicts"):
            goldens.check(model)
        return model


class _Goldens:
    """The golden rows of a manifest. Raises ModelRefused for those that do not fit its signature."""

    def __init__(self, manifest: Manifest, signature: Signature) -> None:
        self._goldens = manifest.golden
        self._signature = signature
        exact = manifest.runtime == "linear"  # it adds in one order, wherever it runs
        self._is_close = operator.eq if exact else _is_close
        for index, golden in enumerate(manifest.golden):
            self._check_cells(f"golden.{index}.input", signature.inputs, golden.input)
            self._check_cells(f"golden.{index}.output", signature.outputs, golden.output)

    def check(self, model: Model) -> None:
        """Have them predicted together and alone until the model is warm.

        Raises ModelRefused, and whatever the model does.
        """
        rows = [row_of(self._signature, golden.input) for golden in self._goldens]
        if not rows:
            return
        for _ in range(_WARMING):
            self._predict(model, rows, 0)
            for index, row in enumerate(rows[:_MOST_ALONE]):
                self._predict(model, [row], index)

    def _predict(self, model: Model, rows: list[Any], first: int) -> None:
        outputs = model.predict(Batch(self._signature, rows))
        for column, values in zip(self._signature.outputs, outputs, strict=True):
            shape = (len(rows),) if column.width is None else (len(rows), column.width)
            if values.shape != shape or values.dtype != DTYPES[column.kind]:
                raise ModelRefused(
                    f"expected {column.name} of type {column.kind} and shape {shape},"
                    f" got {values.dtype} and {values.shape}"
                )
            for index, value in enumerate(values.tolist(), first):
                expected = self._goldens[index].output[column.name]
                if not self._agree(expected, value):
                    raise ModelRefused(
                        f"golden.{index}.output.{column.name}: expected {reprlib.repr(expected)},"
                        f" got {reprlib.repr(value)}"
                    )

    def _agree(self, expected: Any, got: Any) -> bool:
        if isinstance(expected, list):
            return all(map(self._agree, expected, got))
        if isinstance(got, float):
            return self._is_close(expected, got)
        return bool(expected == got)

    def _check_cells(self, place: str, columns: tuple[Column, ...], cells: Mapping[str, Value]) -> None:
        if {*cells} - {column.name for column in columns}:
            raise ModelRefused(f"{place}: expected the names of the signature, got another")
        for column in columns:
            if not _fits(column, cells.get(column.name)):
                raise ModelRefused(f"{place}.{column.name}: expected {_in_words(column)}, got another")


def _is_close(expected: float, got: float) -> bool:
    return isclose(expected, got, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def _fits(column: Column, cell: Value | None) -> bool:
    if cell is None:
        return column.nullable
    if column.width is None:
        return _is_of_kind(column, cell)
    return isinstance(cell, list) and len(cell) == column.width and all(_is_of_kind(column, item) for item in cell)


def _is_of_kind(column: Column, value: object) -> bool:
    if column.kind is Kind.FLOAT:
        return type(value) in (int, float)
    if column.categories is not None:
        return value in column.categories
    return type(value) is _TYPES[column.kind]


def _in_words(column: Column) -> str:
    what = "one of its categories" if column.categories is not None else f"a value of type {column.kind}"
    return what if column.width is None else f"{column.width} of type {column.kind}"


@contextmanager
def _told(path: str, expected: str) -> Iterator[None]:
    """Turns whatever a library raises into ModelRefused."""
    try:
        yield
    except ModelRefused as exc:
        raise ModelRefused(f"{path}: {exc}") from exc
    except BaseException as exc:
        raise ModelRefused(f"{path}: expected {expected}, got {type(exc).__name__}: {exc}") from exc

"""Python classes that the operator's environment has: anything goes, so the operator has to allow it.

The manifest's `entry` names a class, `module:Class`. It is made without arguments, or with the bytes of the artefact
where the manifest has one. Its `predict` gets a dict of arrays by the names of the inputs, as `Batch.columns` has them,
and gives a dict of arrays by the names of the outputs:

    class Shop:
        def predict(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"total": columns["price"] * columns["amount"]}
"""

from importlib import import_module
from typing import Any

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import Manifest
from weighbridge.adapters.runtimes import Packed, Trust
from weighbridge.adapters.runtimes.outputs import as_output
from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column, Signature


class PythonModel:
    """A class of the operator's own."""

    def __init__(self, signature: Signature, scorer: Any) -> None:
        self.signature = signature
        self._scorer = scorer

    def predict(self, batch: Batch) -> Outputs:
        """Score the rows. Raises whatever the class does, and ValueError for outputs that the signature has not."""
        given = self._scorer.predict(batch.columns())
        expected = {column.name for column in self.signature.outputs}
        if set(given) != expected:
            raise ValueError(f"the outputs must be {sorted(expected)}")
        return tuple(as_output(column, given[column.name]) for column in self.signature.outputs)


def takes(model: object) -> bool:
    """No fitted model is of this runtime: its manifests are written by hand."""
    del model
    return False


def pack(model: Any, inputs: tuple[Column, ...]) -> Packed:
    """Raises ModelRefused."""
    del inputs
    raise ModelRefused(f"{type(model).__name__} cannot be written as data; write its model.toml by hand")


def load(artefact: Artefact, manifest: Manifest, trust: Trust) -> Model:
    """Import the entry and make it. Raises ModelRefused where it may not or cannot, or whatever the class does."""
    entry = manifest.entry or ""
    if not trust.python:
        raise ModelRefused(f"the Python class {entry} can run any code; set WEIGHBRIDGE_PYTHON_MODELS=true to allow it")
    module, _, name = entry.partition(":")
    try:
        made = getattr(import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise ModelRefused(f"entry: cannot import {entry}: {exc}") from exc
    scorer = made() if manifest.artefact is None else made(artefact.read())
    if not callable(getattr(scorer, "predict", None)):
        raise ModelRefused(f"entry: {entry} has no method predict")
    return PythonModel(manifest.signature(), scorer)

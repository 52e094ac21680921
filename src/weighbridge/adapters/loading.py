"""Trained models from the repository: opened by their runtimes, and believed once they predict what they should."""

import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from weighbridge.adapters.golden import GoldenRows
from weighbridge.adapters.manifest import MANIFEST, Manifest, RuntimeName
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runtimes import Runtime, Trust, runtime
from weighbridge.application.ports import Model
from weighbridge.domain.batch import Batch
from weighbridge.domain.errors import ModelRefused

_WARMING = 3  # first calls build what later ones reuse
_MOST_ALONE = 8


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
        with _told(stated, "reading the golden rows failed"):
            golden = GoldenRows(manifest, signature)
        with _told(opened, f"the runtime {manifest.runtime} cannot load it"):
            model = self._runtimes(manifest.runtime).load(artefact, manifest, self._trust)
            reported = model.signature
        if reported != signature:
            raise ModelRefused(f"{opened}: its inputs and outputs differ from those in {MANIFEST}")
        with _told(stated, "predicting the golden rows failed"):
            _check(model, golden)
        return model


def _check(model: Model, golden: GoldenRows) -> None:
    """Have golden rows predicted together and alone until the model is warm.

    Raises ModelRefused, and whatever the model does.
    """
    alone = [[place] for place in range(len(golden.rows))]
    if not alone:
        return
    together = [*range(len(alone))] if len(alone) > 1 else [0, 0]  # a model may take one row, and no more
    for _ in range(_WARMING):
        for places in (together, *alone[:_MOST_ALONE]):
            outputs = model.predict(Batch(model.signature, [golden.rows[place] for place in places]))
            found = golden.difference(places, outputs)
            if found is not None:
                raise ModelRefused(
                    f"golden.{found.place}.output.{found.output}: expected {reprlib.repr(found.expected)},"
                    f" got {reprlib.repr(found.got)}"
                )


@contextmanager
def _told(path: str, failure: str) -> Iterator[None]:
    """Turns any exception of a library into ModelRefused."""
    try:
        yield
    except ModelRefused as exc:
        raise ModelRefused(f"{path}: {exc}") from exc
    except BaseException as exc:
        raise ModelRefused(f"{path}: {failure}: {type(exc).__name__}: {exc}") from exc

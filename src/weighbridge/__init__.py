"""Weighbridge: a trained model as a production HTTP service."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from weighbridge.domain.errors import ModelRefused

__all__ = ["ModelRefused", "__version__", "package"]
__version__ = "0.1.0"


def package(
    model: Any,
    directory: str | Path,
    *,
    example: Any,
    trusted_types: Sequence[str] = (),
    title: str | None = None,
    description: str | None = None,
    owner: str | None = None,
) -> Path:
    """Write a fitted model as a version that `weighbridge serve --models` can load; gives its directory.

        weighbridge.package(model, "models/churn/1", example=X)

    `model` is a fitted estimator or pipeline of scikit-learn, a model of XGBoost or LightGBM, the path of an ONNX file,
    or a vector of weights. `directory` is that of models, the name of the model, and the version: a number, or up to
    four with dots between them. It must not be there yet; what is above it is made.

    `example` is one or more rows that the model takes: a pandas DataFrame with the columns that it was fitted on, or
    numbers of shape (n, width). The names and types of inputs, their categories, and whether they may be null are told
    from it, so it should hold a null wherever one may come. Two to five of its rows (its only row twice), with what the
    model predicts for them, are written as golden rows: the service serves the model only if it predicts the same. A
    model is refused that gives another number of rows than it was given, or for a row alone something else than for the
    same row among others.

    `trusted_types` are dotted names of types in a scikit-learn model that are not the library's own; whoever serves it
    has to name them in WEIGHBRIDGE_TRUSTED_TYPES.

    `title`, `description` and `owner` are for people: each a line, shown on `/docs` and by `GET /models`.

    The artefact is data only: what has to run code of its own to be loaded is refused. The version is there as a whole
    or not at all. Raises ModelRefused, which says what was expected, and OSError.
    """
    entrypoint: Any = import_module("weighbridge.entrypoints.package")  # nothing of this on `import weighbridge`
    about = {"title": title, "description": description, "owner": owner}
    written: Path = entrypoint.package(model, directory, example=example, trusted_types=trusted_types, about=about)
    return written

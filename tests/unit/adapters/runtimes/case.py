"""What the contract of runtimes is shown on: fitted models, real rows, and what their own library says of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Case:
    """One fitted model.

    `fit` gives what `weighbridge.package` takes and the example to package it with. `rows` are rows that the model was
    not packaged with, as JSON has them: a mapping of cells each, or for a model that takes one vector a list of
    numbers; `expected` is what the library's own `predict` (and `predict_proba`) say of them, by the names of outputs.
    """

    name: str
    fit: Callable[[], tuple[Any, Any]]
    rows: Callable[[], Sequence[Any]]
    expected: Callable[[], dict[str, Sequence[Any]]]

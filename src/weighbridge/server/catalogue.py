"""What is told of models: to all who serve them, which version of each is live; to operators, what they have done."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from weighbridge.adapters.runners.terms import Placed
from weighbridge.application.catalogue import ModelEntry


class Stopping(Exception):
    """The service ends, and changes nothing any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an operation; `persisted` says whether a restart finds the same version live."""

    model: str
    live: str | None
    previous: str | None
    persisted: bool


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The versions that are `live`, by the names of their models, the embedded one aside; and the catalogue of all."""

    live: Mapping[str, Placed] = field(default_factory=dict)
    entries: Mapping[str, ModelEntry] = field(default_factory=dict)

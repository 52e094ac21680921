"""What is known of every model, whether it answers requests or not; no numpy, for the supervisor keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class VersionState(StrEnum):
    """What can be said of a version."""

    LIVE = "live"  # it answers requests
    AVAILABLE = "available"  # it can be activated, as far as one can tell without loading it
    REFUSED = "refused"  # it cannot be served; the reason says why


@dataclass(frozen=True, slots=True)
class VersionEntry:
    """A version of a model; `reason` is why it is refused."""

    version: str
    state: VersionState
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Calls:
    """How the live version of a model is called: `inline`, in the workers, or by so many runners; in a `thread`.

    A call of n rows took about `call_seconds` and n times `row_seconds` when the version was opened. Where requests
    share calls, their rows were shown to get the same answers alone and together.
    """

    placement: str
    instances: int
    requests_share_calls: bool
    call_seconds: float
    row_seconds: float


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model: its version that is live, the one that was before it, and all there are, in numeric order.

    `reason` is why the version that was last asked for is not the live one.
    """

    name: str
    live: str | None
    previous: str | None
    versions: tuple[VersionEntry, ...]
    reason: str | None = None
    calls: Calls | None = None


Entries = Mapping[str, ModelEntry]
"""All models by name."""

EMBEDDED = ModelEntry("default", "embedded", None, (VersionEntry("embedded", VersionState.LIVE),))
"""The model of the setting `weights`."""

"""What is live, what is known of it, and what it is shown with: as it lies in the repository."""

from collections.abc import Mapping
from typing import Any

from weighbridge.adapters.manifest import Manifest
from weighbridge.adapters.repository import FoundModel
from weighbridge.application.catalogue import Entries, ModelEntry, VersionEntry, VersionState
from weighbridge.domain.errors import ModelRefused


def wanted(found: Mapping[str, FoundModel]) -> dict[str, str]:
    """The version of each model that should be live. Raises ModelRefused for a model that has none."""
    live = {}
    for name, model in found.items():
        if model.wanted is None:
            raise ModelRefused(model.problem or f"models/{name}: expected one or more versions, got none")
        live[name] = model.wanted
    return live


def check(found: Mapping[str, FoundModel]) -> None:
    """Raises ModelRefused for the first live version whose manifest or digest is not in order."""
    for name, version in wanted(found).items():
        files = found[name].versions.get(version)
        if files is None:
            raise ModelRefused(f"models/{name}/rollout.toml: there is no version {version}")
        if files.reason is not None:
            raise ModelRefused(files.reason)


def entries(found: Mapping[str, FoundModel], live: Mapping[str, str]) -> Entries:
    """All that was found, of which these versions are live."""
    return {name: _entry(name, model, live.get(name)) for name, model in found.items()}


def _entry(name: str, model: FoundModel, live: str | None) -> ModelEntry:
    versions = tuple(
        VersionEntry(version, VersionState.LIVE)
        if version == live
        else VersionEntry(version, VersionState.REFUSED if entry.reason else VersionState.AVAILABLE, entry.reason)
        for version, entry in model.versions.items()
    )
    previous = None if model.rollout is None else model.rollout.previous
    return ModelEntry(name, live, previous, versions, model.problem)


def golden_row(manifest: Manifest) -> dict[str, Any] | None:
    """The inputs of a version's first golden row, by their names; None where there is none."""
    return next(
        ({column.name: golden.input.get(column.name) for column in manifest.inputs} for golden in manifest.golden), None
    )

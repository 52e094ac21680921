"""What is known of each model: what was found of it, what is served, and what the catalogue says of both."""

from dataclasses import dataclass, field
from typing import Self

from weighbridge.adapters.manifest import Options
from weighbridge.adapters.repository import FoundModel, FoundVersion
from weighbridge.application.catalogue import ModelEntry, VersionEntry, VersionState
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.runner.hosted import Hosted


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version as it is to be served: its files as they were found, and how it is to be run.

    What is served is replaced when any of these changes.
    """

    version: str
    found: FoundVersion
    options: Options

    @classmethod
    def stated(cls, name: str, model: FoundModel | None) -> Self:
        """The version that should be live by the directory. Raises ModelRefused."""
        if model is None:
            raise ModelRefused(f"models/{name}: expected a directory, got nothing")
        if model.wanted is None:
            raise ModelRefused(model.problem or f"models/{name}: expected a version, got none")
        if model.wanted not in model.versions:
            raise ModelRefused(f"models/{name}/rollout.toml: there is no version {model.wanted}")
        return cls.chosen(model, model.wanted)

    @classmethod
    def chosen(cls, model: FoundModel, version: str) -> Self:
        """A version that is there. Raises ModelRefused when the rollout is wrong: how to run it is not known then."""
        if model.problem is not None:
            raise ModelRefused(model.problem)
        return cls(version, model.versions[version], model.options(version))


@dataclass(slots=True)
class ModelState:
    """A model: what is served of it, and what was found of it when it was last looked at.

    It was `followed` when the directory last had its say; `overruled` is what an operation found that could not write.
    """

    found: FoundModel | None = None
    followed: FoundModel | None = None
    overruled: FoundModel | None = None
    served: Wanted | None = None
    hosted: Hosted | None = None
    previous: str | None = None
    reason: str | None = None
    refused: dict[str, tuple[Wanted, str]] = field(default_factory=dict)

    @property
    def live(self) -> str | None:
        """The version that is served."""
        return None if self.served is None else self.served.version

    def entry(self, name: str) -> ModelEntry:
        """What the catalogue says of it."""
        found = self.found or FoundModel(None, None, {})
        versions = found.versions
        if self.live is not None and self.live not in versions:
            versions = {**versions, self.live: FoundVersion()}
        entries = tuple(self._entry(found, version, files) for version, files in versions.items())
        calls = None if self.hosted is None else self.hosted.entry()
        return ModelEntry(name, self.live, self.previous, entries, self.reason, calls)

    def _entry(self, found: FoundModel, version: str, files: FoundVersion) -> VersionEntry:
        refused_as, reason = self.refused.get(version, (None, None))
        if refused_as is None or refused_as != Wanted(version, files, found.options(version)):
            reason = files.reason
        if version == self.live:
            unavailable = None if self.hosted is None else self.hosted.unavailable
            return VersionEntry(version, VersionState.LIVE, reason if unavailable is None else unavailable)
        return VersionEntry(version, VersionState.AVAILABLE if reason is None else VersionState.REFUSED, reason)

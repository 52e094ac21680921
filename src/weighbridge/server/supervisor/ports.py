"""What `Rollouts` needs: the directory of models, those who open versions, and those who serve them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client.metrics_core import Metric

from weighbridge.adapters.manifest import Options
from weighbridge.adapters.repository import FoundModel
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.process import RunnerProcess
from weighbridge.server.runner.runners import RunnerReport
from weighbridge.settings import Settings


class ModelDirectory(Protocol):
    """The directory of models, in which no artefact of more than `most_bytes` is read."""

    most_bytes: int

    def scan(self, only: str | None = None) -> Mapping[str, FoundModel]:
        """All models, or `only` one; takes its time. Raises ModelRefused when the directory cannot be read."""
        ...

    def strangers(self) -> list[str]:
        """What is no model by its name, a sentence each. Raises ModelRefused."""
        ...

    def write_rollout(self, name: str, *, live: str, previous: str | None) -> None:
        """Have `rollout.toml` name these versions, and keep all else in it. Raises OSError, ModelRefused."""
        ...


class Openings(Protocol):
    """Whoever opens versions, in processes that can do no harm and that may stay to answer: `Runners`."""

    came: Callable[[Hosted, RunnerProcess], None]
    gone: Callable[[Hosted], None]

    async def open(self, name: str, version: str, options: Options) -> Hosted:
        """Open a version. Raises ModelRefused."""
        ...

    def heed(self, settings: Settings) -> bool:
        """Open versions with these settings; whether those that are open would be opened otherwise."""
        ...

    def broken(self, number: int, serial: int, reason: str) -> None:
        """Have a runner of an opening replaced, which sent what it may not."""
        ...

    def clear(self, slot: int) -> None:
        """Forget what a worker that is gone had in hand for runners."""
        ...

    def reports(self) -> list[RunnerReport]:
        """A report on each runner."""
        ...

    def families(self) -> Iterable[Metric]:
        """The families of series about runners."""
        ...


class Hosts(Protocol):
    """All who serve the models: the workers, or the one process. Those who join serve what the catalogue says."""

    async def prepare(self, hosted: Hosted) -> None:
        """Have each make ready for a version, beside those that are live. Raises ModelRefused when one cannot."""
        ...

    async def commit(self, hosted: Hosted) -> None:
        """Have each serve the version that it has prepared, or be replaced."""
        ...

    def abort(self) -> None:
        """Have each forget what it has prepared."""
        ...

    def connect(self, hosted: Hosted, runner: RunnerProcess) -> None:
        """Have each ask another runner of a version."""
        ...

    def put_out(self, hosted: Hosted) -> None:
        """Let each know that a version is out of service."""
        ...

    def tell(self) -> None:
        """Let each know the catalogue of the catalogue."""
        ...

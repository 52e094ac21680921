"""Which version of each model is live: decided here, agreed upon by all who serve it, or undone."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from time import monotonic
from typing import Any, Protocol, TypeVar

from prometheus_client.metrics_core import Metric
from structlog.typing import FilteringBoundLogger

from weighbridge.adapters.manifest import Options
from weighbridge.adapters.metrics import SERIES_KEPT_SECONDS
from weighbridge.adapters.model_metrics import model_families
from weighbridge.adapters.repository import FoundModel, FoundVersion
from weighbridge.adapters.system.machine import usable_cores
from weighbridge.adapters.system.priority import aside
from weighbridge.application.catalogue import EMBEDDED, ModelEntry, VersionEntry, VersionState
from weighbridge.domain.errors import ModelNotFound, ModelRefused, NothingToRollBack, VersionNotFound
from weighbridge.server.catalogue import Catalogue, Outcome, Stopping
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.process import RunnerProcess
from weighbridge.server.runner.runners import RunnerReport
from weighbridge.settings import Settings

OPERATIONS = ("activate", "rollback", "reload", "watch")
"""What makes another version live: three that an operator asks for, and what is found in the directory."""

ResultT = TypeVar("ResultT")


class CannotStart(Exception):
    """The service, or what it needs, did not come up; the message is the reason."""


class ModelDirectory(Protocol):
    """The directory of models, in which no artefact of more than `most_bytes` is read."""

    most_bytes: int

    def scan(self) -> Mapping[str, FoundModel]:
        """All that is there; takes its time. Raises ModelRefused when the directory cannot be read."""
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

    async def prepare(self, name: str, hosted: Hosted) -> None:
        """Have each make ready for a version, beside those that are live. Raises ModelRefused when one cannot."""
        ...

    async def commit(self) -> None:
        """Have each serve what it has prepared, or be replaced."""
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


_EMBEDDED = Outcome(EMBEDDED.name, EMBEDDED.live, EMBEDDED.previous, persisted=True)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version as it is to be served: its files as they were found, and how it is to be run.

    What is served is replaced when any of these changes.
    """

    version: str
    found: FoundVersion
    options: Options


@dataclass(slots=True)
class _ModelState:
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
        wanted = (Wanted(version, files, found.options(version)) for version, files in versions.items())
        calls = None if self.hosted is None else self.hosted.entry()
        return ModelEntry(name, self.live, self.previous, tuple(map(self._entry, wanted)), self.reason, calls)

    def _entry(self, wanted: Wanted) -> VersionEntry:
        version = wanted.version
        refused_as, reason = self.refused.get(version, (None, None))
        reason = reason if refused_as == wanted else wanted.found.reason
        if version == self.live:
            unavailable = None if self.hosted is None else self.hosted.unavailable
            return VersionEntry(version, VersionState.LIVE, reason if unavailable is None else unavailable)
        return VersionEntry(version, VersionState.AVAILABLE if reason is None else VersionState.REFUSED, reason)


class Rollouts:
    """Decides which version of each model is live, one operation at a time.

    Whoever else changes what all workers serve holds `changing` meanwhile.
    """

    def __init__(
        self, repository: ModelDirectory, openings: Openings, settings: Settings, logger: FilteringBoundLogger
    ) -> None:
        self.changing = asyncio.Lock()
        self.catalogue = Catalogue()
        self._repository = repository
        self._openings = openings
        openings.came, openings.gone = self._came, self._gone
        self._settings = settings
        self._logger = logger
        self._states: dict[str, _ModelState] = {}
        self._operations = Counter[tuple[str, str, str]]()
        self._hosts: Hosts
        self._opening: set[str] = set()
        self._running: set[asyncio.Task[Any]] = set()
        self._decided: asyncio.Task[Any] | None = None
        self._unreadable: str | None = None
        self._stopped = False
        self._ended: dict[tuple[str, str], float] = {}

    def forgotten(self) -> list[tuple[str, str]]:
        """The versions, by model, that have not been live for so long that nobody asks for their series any more.

        Each is told of once.
        """
        live = {(name, state.live) for name, state in self._states.items()}
        old = [of for of, at in self._ended.items() if monotonic() - at > SERIES_KEPT_SECONDS]
        for of in old:
            del self._ended[of]
        return [of for of in old if of not in live]

    @property
    def opening(self) -> list[str]:
        """The versions that are being opened."""
        return sorted(self._opening)

    @property
    def hosted(self) -> list[Hosted]:
        """What is live and answered for by runners."""
        hosted = (state.hosted for state in self._states.values())
        return [one for one in hosted if one is not None and one.placed.terms is not None]

    def metrics(self) -> Iterable[Metric]:
        """The families of series about models."""
        of_each = product(self._states, OPERATIONS, ("success", "refused"))
        counts = {operation: self._operations[operation] for operation in of_each}
        live = {entry.name: entry.live for entry in self.catalogue.entries.values() if entry.live is not None}
        return [*model_families(live, counts), *self._openings.families()]

    async def heed(self, settings: Settings) -> None:
        """Open versions with these settings from now on, and anew what runners answer for, where that matters.

        The caller holds `changing`.
        """
        self._repository.most_bytes = settings.load_memory_bytes
        if self._openings.heed(settings):
            for name, state in sorted(self._states.items()):
                if state.served is not None and state.hosted in self.hosted:
                    with suppress(ModelRefused), self._recorded(name, "reload"):  # it is logged; the old one serves on
                        await self._replace(name, state.served)

    async def start(self, hosts: Hosts) -> None:
        """Decide what is live from the start, for `hosts` that are yet to be started. The caller holds `changing`.

        Raises CannotStart, Stopping.
        """
        await self._run(self._start(hosts))

    async def activate(self, name: str, version: str) -> Outcome:
        """Make a version live. Raises ModelNotFound, VersionNotFound, ModelRefused, Stopping."""
        return await self._run(self._activate(name, version))

    async def rollback(self, name: str) -> Outcome:
        """Make live what was so before. Raises ModelNotFound, NothingToRollBack, ModelRefused, Stopping."""
        return await self._run(self._roll_back(name))

    async def reload(self, name: str) -> Outcome:
        """Make live what the directory says, opened anew if it has changed.

        Raises ModelNotFound, ModelRefused, Stopping.
        """
        return await self._run(self._reload(name))

    async def reconcile(self) -> None:
        """Do the same for every model of which anything has changed; what is refused is logged."""
        with suppress(Stopping):
            await self._run(self._reconcile())

    def runners(self) -> list[RunnerReport]:
        """A report on each runner."""
        return self._openings.reports()

    def broken(self, number: int, serial: int, reason: str) -> None:
        """A runner sent a worker what it may not."""
        self._openings.broken(number, serial, reason)

    def clear(self, slot: int) -> None:
        """A worker is gone that counted in this slot."""
        self._openings.clear(slot)

    def stop(self) -> None:
        """Undo what is not decided yet, and refuse all else from now on."""
        self._stopped = True
        for task in self._running - {self._decided}:
            task.cancel()

    async def _run(self, operation: Coroutine[Any, Any, ResultT]) -> ResultT:
        """The result of an operation, which goes on when nobody waits for it any more. Raises Stopping."""
        task = asyncio.ensure_future(operation)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if self._stopped:
            task.cancel()
        await asyncio.wait({task})
        try:
            if task.cancelled():
                raise Stopping
            return task.result()
        finally:
            del task  # which knows the error that knows this frame: all that was read would stay with them

    async def _start(self, hosts: Hosts) -> None:
        self._hosts = hosts
        try:
            found = await asyncio.to_thread(self._repository.scan)
            strangers = await asyncio.to_thread(self._repository.strangers)
        except ModelRefused as exc:
            raise CannotStart(f"WEIGHBRIDGE_MODELS: {exc}") from exc
        if strangers:
            self._logger.warning("models_passed_over", reasons=strangers)
        wanted = {}
        for name, model in found.items():
            self._states[name] = _ModelState(model, model)
            if model.problem is not None or model.versions:
                wanted[name] = model
        opened = await self._open_all(wanted)
        for name, (served, hosted) in opened.items():
            state, rollout = self._states[name], wanted[name].rollout
            state.served, state.hosted = served, hosted
            state.previous = None if rollout is None else rollout.previous
        self._line_up()

    async def _open_all(self, models: Mapping[str, FoundModel]) -> dict[str, tuple[Wanted, Hosted]]:
        """What is to be live of these models, opened side by side, one for each core. Raises CannotStart."""
        turns = asyncio.Semaphore(usable_cores())

        async def opened(name: str, model: FoundModel) -> tuple[Wanted, Hosted]:
            wanted = _wanted(name, model)
            async with turns:
                return wanted, await self._open(name, wanted)

        self._opening = set(models)
        results = await asyncio.gather(*map(opened, models, models.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, ModelRefused):
                raise CannotStart(str(result)) from result
            if isinstance(result, BaseException):
                raise result
        return {name: result for name, result in zip(models, results, strict=True) if isinstance(result, tuple)}

    async def _activate(self, name: str, version: str) -> Outcome:
        async with self.changing:
            if (name, version) == (_EMBEDDED.model, _EMBEDDED.live):
                return _EMBEDDED
            state = await self._look_at(name)
            if state.found is None or version not in state.found.versions:
                raise VersionNotFound
            with self._recorded(name, "activate"):
                return await self._make_live(name, _chosen(state.found, version), pin=True)

    async def _roll_back(self, name: str) -> Outcome:
        async with self.changing:
            if name == _EMBEDDED.model:
                raise NothingToRollBack
            state = await self._look_at(name)
            version = state.previous
            if version is None or state.found is None or version not in state.found.versions:
                raise NothingToRollBack
            with self._recorded(name, "rollback"):
                return await self._make_live(name, _chosen(state.found, version), pin=True)

    async def _reload(self, name: str) -> Outcome:
        async with self.changing:
            if name == _EMBEDDED.model:
                return _EMBEDDED
            state = await self._look_at(name)
            state.followed = state.found
            with self._recorded(name, "reload"):
                return await self._make_live(name, _wanted(name, state.found), pin=False)

    async def _reconcile(self) -> None:
        async with self.changing:
            try:
                found = await self._scan()
            except ModelRefused as exc:
                if self._unreadable != str(exc):
                    self._unreadable = str(exc)
                    self._logger.error("models_unreadable", reason=str(exc))
                return
            self._unreadable = None
            for name in sorted({*found, *self._states}):
                state = self._states.setdefault(name, _ModelState())
                state.found = found.get(name)
                if state.followed != state.found:
                    state.followed = state.found
                    await self._follow(name, state)
            self._line_up()

    async def _follow(self, name: str, state: _ModelState) -> None:
        """Make live what the directory says, if that can be served."""
        if state.found is None:
            state.reason = f"models/{name}: the directory is missing; the live version serves on"
            self._logger.warning("model_gone", model=name, live=state.live)
            return
        if state.overruled is not None and state.overruled.rollout == state.found.rollout:
            state.reason = None
            return  # it says what it said then
        with suppress(ModelRefused), self._recorded(name, "watch"):  # it is logged, and kept as the reason
            await self._make_live(name, _wanted(name, state.found), pin=False)

    async def _look_at(self, name: str) -> _ModelState:
        """How a model stands, by what is in the directory now. Raises ModelNotFound, ModelRefused."""
        found = (await self._scan()).get(name)
        if found is None and name not in self._states:
            raise ModelNotFound
        state = self._states.setdefault(name, _ModelState())
        state.found = found
        return state

    async def _scan(self) -> Mapping[str, FoundModel]:
        """What is in the directory now. Raises ModelRefused."""
        try:
            return await aside(self._repository.scan)
        except (OSError, MemoryError) as exc:
            got = f"{type(exc).__name__}: {exc}"
            raise ModelRefused(f"models: scanning the directory failed: {got}") from exc

    @contextmanager
    def _recorded(self, name: str, operation: str) -> Iterator[None]:
        """Count and remember how an operation ends, and let everyone know."""
        state = self._states[name]
        before = state.served
        try:
            yield
        except ModelRefused as exc:
            state.reason = str(exc)
            self._operations[name, operation, "refused"] += 1
            self._logger.error("model_refused", model=name, operation=operation, live=state.live, reason=str(exc))
            raise
        else:
            state.reason = None
            if operation != "watch" or before != state.served:
                self._operations[name, operation, "success"] += 1
        finally:
            self._line_up()

    async def _make_live(self, name: str, wanted: Wanted, *, pin: bool) -> Outcome:
        """Have a version served by all, or change nothing; `pin` it in the rollout. Raises ModelRefused, Stopping."""
        if self._stopped:  # after what was decided for another model
            raise Stopping
        state = self._states[name]
        hosted = state.hosted
        if hosted is None or wanted != state.served:
            hosted = await self._agree(name, wanted)
        else:
            await hosted.revive()
        self._decided = asyncio.current_task()
        try:
            return await self._decide(name, wanted, hosted, pin=pin)
        finally:
            self._decided = None

    async def _replace(self, name: str, wanted: Wanted) -> None:
        """Have a version that is live opened anew, and served so. Raises ModelRefused."""
        hosted = await self._agree(name, wanted)
        await self._serve(self._states[name], hosted)

    async def _decide(self, name: str, wanted: Wanted, hosted: Hosted, *, pin: bool) -> Outcome:
        """Write what all have agreed upon, and have it served: nothing undoes that halfway."""
        state, version = self._states[name], wanted.version
        previous = state.previous if version == state.live else state.live
        persisted = not pin or await self._persist(name, version, previous)
        state.followed, state.overruled = state.found, None if persisted else state.found
        if wanted != state.served:
            state.served, state.previous = wanted, previous
            await self._serve(state, hosted)
            self._logger.info("model_live", model=name, version=version, previous=previous, persisted=persisted)
        return Outcome(name, version, previous, persisted)

    async def _serve(self, state: _ModelState, hosted: Hosted) -> None:
        """Have all serve what they have prepared, and what they served before be asked no more."""
        former, state.hosted = state.hosted, hosted
        self._line_up()
        await self._hosts.commit()
        if former is not None:
            former.retire()
            self._ended[former.name, former.version] = monotonic()

    async def _agree(self, name: str, wanted: Wanted) -> Hosted:
        """Open a version, and have all prepare it. Raises ModelRefused."""
        state = self._states[name]
        hosted = None
        try:
            hosted = await self._open(name, wanted)
            await self._hosts.prepare(name, hosted)
            hosted.check()
        except BaseException as exc:
            if isinstance(exc, ModelRefused):
                state.refused[wanted.version] = wanted, str(exc)
            self._hosts.abort()
            if hosted is not None:
                hosted.retire()
            raise
        state.refused.pop(wanted.version, None)
        return hosted

    async def _open(self, name: str, wanted: Wanted) -> Hosted:
        """Have a version opened whose files are in order. Raises ModelRefused."""
        if wanted.found.reason is not None:
            raise ModelRefused(wanted.found.reason)
        self._opening.add(name)
        try:
            return await self._openings.open(name, wanted.version, wanted.options)
        finally:
            self._opening.discard(name)

    def _came(self, hosted: Hosted, runner: RunnerProcess) -> None:
        """Another runner of a version can be asked."""
        self._hosts.connect(hosted, runner)
        self._line_up()

    def _gone(self, hosted: Hosted) -> None:
        """A version is out of service."""
        self._hosts.put_out(hosted)
        self._line_up()

    async def _persist(self, name: str, live: str, previous: str | None) -> bool:
        """Write these versions into the rollout, unless they are there; whether that could be done."""
        found = self._states[name].found
        rollout = None if found is None else found.rollout
        if rollout is not None and (rollout.live, rollout.previous) == (live, previous):
            return True
        try:
            await asyncio.to_thread(self._repository.write_rollout, name, live=live, previous=previous)
        except (OSError, ModelRefused) as exc:
            self._logger.warning("rollout_not_written", model=name, live=live, reason=str(exc))
            return False
        return True

    def _line_up(self) -> None:
        """Have the catalogue say how all stands, and let everyone know if that is new."""
        former, states = self.catalogue, sorted(self._states.items())
        live = {name: state.hosted.placed for name, state in states if state.hosted is not None}
        entries = {name: state.entry(name) for name, state in states}
        self.catalogue = Catalogue(live, {EMBEDDED.name: EMBEDDED, **entries})
        if self.catalogue != former:
            self._hosts.tell()


def _wanted(name: str, model: FoundModel | None) -> Wanted:
    """The version that should be live. Raises ModelRefused."""
    if model is None:
        raise ModelRefused(f"models/{name}: expected a directory, got nothing")
    if model.wanted is None:
        raise ModelRefused(model.problem or f"models/{name}: expected a version, got none")
    if model.wanted not in model.versions:
        raise ModelRefused(f"models/{name}/rollout.toml: there is no version {model.wanted}")
    return _chosen(model, model.wanted)


def _chosen(model: FoundModel, version: str) -> Wanted:
    """A version that is there. Raises ModelRefused when the rollout is wrong: how to run it is not known then."""
    if model.problem is not None:
        raise ModelRefused(model.problem)
    return Wanted(version, model.versions[version], model.options(version))

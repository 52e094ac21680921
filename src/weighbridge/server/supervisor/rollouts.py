"""Which version of each model is live: decided here, agreed upon by all who serve it, or undone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import product
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from prometheus_client.metrics_core import Metric
from structlog.typing import FilteringBoundLogger

from weighbridge.adapters.metrics import SERIES_KEPT_SECONDS
from weighbridge.adapters.model_metrics import model_families
from weighbridge.adapters.repository import FoundModel
from weighbridge.adapters.system.machine import usable_cores
from weighbridge.adapters.system.priority import aside
from weighbridge.application.catalogue import EMBEDDED, Entries
from weighbridge.domain.errors import ModelNotFound, ModelRefused, NothingToRollBack, VersionNotFound
from weighbridge.server.catalogue import Catalogue, Outcome, Stopping
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.process import RunnerProcess
from weighbridge.server.runner.runners import RunnerReport
from weighbridge.server.supervisor.ports import Hosts, ModelDirectory, Openings
from weighbridge.server.supervisor.states import ModelState, Wanted
from weighbridge.settings import Settings

OPERATIONS = ("activate", "rollback", "reload", "watch")
"""What makes another version live: three that an operator asks for, and what is found in the directory."""

ResultT = TypeVar("ResultT")

_EMBEDDED_STAYS = Outcome(EMBEDDED.name, EMBEDDED.live, EMBEDDED.previous, persisted=True)


class CannotStart(Exception):
    """The service, or what it needs, did not come up; the message is the reason."""


class Rollouts:
    """Decides which version of each model is live.

    Each model has one operation at a time: it looks at the directory of the model, and has a version opened, which may
    take long. Of all models, only one at a time has its version prepared and served. Whoever else changes what all
    workers serve holds `changing` meanwhile.
    """

    def __init__(
        self, repository: ModelDirectory, openings: Openings, settings: Settings, logger: FilteringBoundLogger
    ) -> None:
        self.changing = asyncio.Lock()
        self._embedded = _embedded(settings)
        self.catalogue = Catalogue(entries=self._embedded)
        self._repository = repository
        self._openings = openings
        openings.came, openings.gone = self._came, self._gone
        self._settings = settings
        self._logger = logger
        self._states: dict[str, ModelState] = {}
        self._operations = Counter[tuple[str, str, str]]()
        self._hosts: Hosts
        self._started = asyncio.Event()
        self._turns = WeakValueDictionary[str, asyncio.Lock]()
        self._opening: set[str] = set()
        self._running: set[asyncio.Task[Any]] = set()
        self._decided: asyncio.Task[Any] | None = None
        self._changed: set[str] = set()
        self._followed: set[str] = set()
        self._places = asyncio.Semaphore(usable_cores() + 1)  # one that hangs holds up no other
        self._unreadable: str | None = None
        self._stopped = False
        self._ended: dict[tuple[str, str], float] = {}

    # What is known

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

    def runners(self) -> list[RunnerReport]:
        """A report on each runner."""
        return self._openings.reports()

    # What is asked of it

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
        """Look at all models, and begin to do the same for each of which anything has changed, without waiting for it.

        What is refused is logged.
        """
        with suppress(Stopping):
            await self._run(self._reconcile())

    async def heed(self, settings: Settings) -> None:
        """Open versions with these settings from now on, and anew what runners answer for, where that matters.

        The caller has let go of `changing`, in the same step of the loop: nothing that was opened with other settings
        is served in between.
        """
        self._embedded = _embedded(settings)
        self._line_up()
        self._repository.most_bytes = settings.load_memory_bytes
        if self._openings.heed(settings):
            self._settings = settings
            for hosted in sorted(self.hosted, key=lambda hosted: hosted.name):
                with suppress(ModelRefused, Stopping):  # it is logged; the old one serves on
                    await self._run(self._open_anew(hosted))

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

    def _begin(self, operation: Coroutine[Any, Any, ResultT]) -> asyncio.Task[ResultT]:
        """Begin an operation, unless the service ends."""
        task = asyncio.ensure_future(operation)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if self._stopped:
            task.cancel()
        return task

    async def _run(self, operation: Coroutine[Any, Any, ResultT]) -> ResultT:
        """The result of an operation, which goes on when nobody waits for it any more. Raises Stopping."""
        task = self._begin(operation)
        await asyncio.wait({task})
        try:
            if task.cancelled():
                raise Stopping
            return task.result()
        finally:
            del task  # which knows the error that knows this frame: all that was read would stay with them

    # The start

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
            self._states[name] = ModelState(model, model)
            if model.problem is not None or model.versions:
                wanted[name] = model
        opened = await self._open_all(wanted)
        for name, (served, hosted) in opened.items():
            state, rollout = self._states[name], wanted[name].rollout
            state.served, state.hosted = served, hosted
            state.previous = None if rollout is None else rollout.previous
        self._line_up()
        self._started.set()

    async def _open_all(self, models: Mapping[str, FoundModel]) -> dict[str, tuple[Wanted, Hosted]]:
        """What is to be live of these models, opened side by side, one for each core. Raises CannotStart."""
        turns = asyncio.Semaphore(usable_cores())

        async def opened(name: str, model: FoundModel) -> tuple[Wanted, Hosted]:
            wanted = Wanted.stated(name, model)
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

    # Operations

    async def _activate(self, name: str, version: str) -> Outcome:
        async with self._turn(name):
            if name in self._embedded and version == EMBEDDED.live:
                return _EMBEDDED_STAYS
            state = await self._look_at(name)
            if state.found is None or version not in state.found.versions:
                raise VersionNotFound
            with self._recorded(name, "activate"):
                return await self._make_live(name, Wanted.chosen(state.found, version), pin=True)

    async def _roll_back(self, name: str) -> Outcome:
        async with self._turn(name):
            if name in self._embedded:
                raise NothingToRollBack
            state = await self._look_at(name)
            version = state.previous
            if version is None or state.found is None or version not in state.found.versions:
                raise NothingToRollBack
            with self._recorded(name, "rollback"):
                return await self._make_live(name, Wanted.chosen(state.found, version), pin=True)

    async def _reload(self, name: str) -> Outcome:
        async with self._turn(name):
            if name in self._embedded:
                return _EMBEDDED_STAYS
            state = await self._look_at(name)
            state.followed = state.found
            with self._recorded(name, "reload"):
                return await self._make_live(name, Wanted.stated(name, state.found), pin=False)

    async def _open_anew(self, hosted: Hosted) -> None:
        """Have a version that is live opened anew. Raises ModelRefused."""
        name = hosted.name
        async with self._turn(name):
            state = self._states[name]
            if state.served is not None and state.hosted is hosted:
                with self._recorded(name, "reload"):
                    await self._agree(name, state.served, partial(self._serve, state))

    async def _reconcile(self) -> None:
        await self._started.wait()
        try:
            found = await self._scan()
        except ModelRefused as exc:
            if self._unreadable != str(exc):
                self._unreadable = str(exc)
                self._logger.error("models_unreadable", reason=str(exc))
            return
        self._unreadable = None
        for name in sorted({*found, *self._states}):
            state = self._states.get(name)
            if state is None or not found.get(name) == state.found == state.followed:
                self._changed.add(name)
                self._follow_soon(name)

    def _follow_soon(self, name: str) -> None:
        """Have what the directory says of a model followed, as many models at a time as there are places."""
        if name not in self._followed:
            self._followed.add(name)
            self._begin(self._follow(name))

    async def _follow(self, name: str) -> None:
        try:
            async with self._places, self._turn(name):
                self._changed.discard(name)
                with suppress(ModelNotFound, ModelRefused):  # it is gone again; it is logged, and kept as the reason
                    state = await self._look_at(name)
                    if state.followed != state.found:
                        await self._follow_directory(name, state)
                self._line_up()
        finally:
            self._followed.discard(name)
            if name in self._changed:  # once more while it was followed
                self._follow_soon(name)

    async def _follow_directory(self, name: str, state: ModelState) -> None:
        """Make live what the directory says, if it can be served. Raises ModelRefused."""
        state.followed = state.found
        if state.found is None:
            state.reason = f"models/{name}: the directory is missing; the live version serves on"
            self._logger.warning("model_gone", model=name, live=state.live)
        elif state.overruled is not None and state.overruled.rollout == state.found.rollout:
            state.reason = None  # it says what it said then
        else:
            with self._recorded(name, "watch"):
                await self._make_live(name, Wanted.stated(name, state.found), pin=False)

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """Operate on a model, once the service has started, while nobody else does."""
        await self._started.wait()
        turn = self._turns.setdefault(name, asyncio.Lock())
        async with turn:
            yield

    async def _look_at(self, name: str) -> ModelState:
        """How a model stands, by what is in the directory now. Raises ModelNotFound, ModelRefused."""
        found = (await self._scan(name)).get(name)
        if found is None and name not in self._states:
            raise ModelNotFound
        state = self._states.setdefault(name, ModelState())
        state.found = found
        return state

    async def _scan(self, only: str | None = None) -> Mapping[str, FoundModel]:
        """What is in the directory now. Raises ModelRefused."""
        try:
            return await aside(partial(self._repository.scan, only))
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

    # Steps

    async def _make_live(self, name: str, wanted: Wanted, *, pin: bool) -> Outcome:
        """Have a version served by all, or change nothing; `pin` it in the rollout. Raises ModelRefused."""
        state = self._states[name]
        decide = partial(self._decide, name, wanted, pin=pin)
        if state.hosted is None or wanted != state.served:
            return await self._agree(name, wanted, decide)
        await state.hosted.revive()
        async with self.changing:
            return await self._to_the_end(decide(state.hosted))

    async def _agree(self, name: str, wanted: Wanted, decide: Callable[[Hosted], Awaitable[ResultT]]) -> ResultT:
        """Open a version, have all prepare it, and decide; or undo all that. Raises ModelRefused."""
        state = self._states[name]
        try:
            while True:
                settings = self._settings
                hosted = await self._open(name, wanted)
                with _retired_unless_served(state, hosted):
                    async with self.changing:
                        if settings is self._settings:  # else it is opened once more
                            return await self._prepare(state, hosted, decide)
        except ModelRefused as exc:
            state.refused[wanted.version] = wanted, str(exc)
            raise

    async def _open(self, name: str, wanted: Wanted) -> Hosted:
        """Have a version opened whose files are in order. Raises ModelRefused."""
        if wanted.found.reason is not None:
            raise ModelRefused(wanted.found.reason)
        self._opening.add(name)
        try:
            return await self._openings.open(name, wanted.version, wanted.options)
        finally:
            self._opening.discard(name)

    async def _prepare(
        self, state: ModelState, hosted: Hosted, decide: Callable[[Hosted], Awaitable[ResultT]]
    ) -> ResultT:
        """Have all make ready for a version that is open, and decide. Raises ModelRefused."""
        try:
            await self._hosts.prepare(hosted)
            hosted.check()
            state.refused.pop(hosted.version, None)
            return await self._to_the_end(decide(hosted))
        finally:
            if state.hosted is not hosted:
                self._hosts.abort()

    async def _to_the_end(self, decision: Awaitable[ResultT]) -> ResultT:
        """Whatever comes of a decision, which is not undone halfway."""
        self._decided = asyncio.current_task()
        try:
            return await decision
        finally:
            self._decided = None

    async def _decide(self, name: str, wanted: Wanted, hosted: Hosted, *, pin: bool) -> Outcome:
        """Write what all have agreed upon, and have it served."""
        state, version = self._states[name], wanted.version
        previous = state.previous if version == state.live else state.live
        persisted = not pin or await self._persist(name, version, previous)
        state.followed, state.overruled = state.found, None if persisted else state.found
        if wanted != state.served:
            state.served, state.previous = wanted, previous
            await self._serve(state, hosted)
            self._logger.info("model_live", model=name, version=version, previous=previous, persisted=persisted)
        return Outcome(name, version, previous, persisted)

    async def _serve(self, state: ModelState, hosted: Hosted) -> None:
        """Have all serve what they have prepared, and what they served before be asked no more."""
        former, state.hosted = state.hosted, hosted
        self._line_up()
        await self._hosts.commit(hosted)
        if former is not None:
            former.retire()
            self._ended[former.name, former.version] = monotonic()

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

    def _came(self, hosted: Hosted, runner: RunnerProcess) -> None:
        """Another runner of a version can be asked."""
        self._hosts.connect(hosted, runner)
        self._line_up()

    def _gone(self, hosted: Hosted) -> None:
        """A version is out of service."""
        self._hosts.put_out(hosted)
        self._line_up()

    def _line_up(self) -> None:
        """Have the catalogue say how all stands, and let everyone know if that is new."""
        former, states = self.catalogue, sorted(self._states.items())
        live = {name: state.hosted.placed for name, state in states if state.hosted is not None}
        entries = {name: state.entry(name) for name, state in states}
        self.catalogue = Catalogue(live, {**self._embedded, **entries})
        if self.catalogue != former:
            self._hosts.tell()


def _embedded(settings: Settings) -> Entries:
    """The entry of the embedded model, where there is one."""
    return {EMBEDDED.name: EMBEDDED} if settings.has_embedded else {}


@contextmanager
def _retired_unless_served(state: ModelState, hosted: Hosted) -> Iterator[None]:
    try:
        yield
    finally:
        if state.hosted is not hosted:
            hosted.retire()

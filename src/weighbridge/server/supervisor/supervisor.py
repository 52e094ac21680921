"""The supervisor: owns the listening socket, gives connections to workers, and replaces those that end or hang.

It imports none of what workers need to answer requests, so that it stays small and has little to fail on.
"""

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from secrets import randbelow

from structlog.typing import FilteringBoundLogger

from weighbridge.adapters.exposition import Totals
from weighbridge.adapters.process_metrics import WorkerState, WorkerStatus, process_families
from weighbridge.adapters.system.lending import lent
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.catalogue import Catalogue, Stopping
from weighbridge.server.channel import KEPT, NoRoom, Word
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.process import RunnerProcess
from weighbridge.server.supervisor.control import WorkerReport
from weighbridge.server.supervisor.dispatcher import Dispatcher
from weighbridge.server.supervisor.listener import most_connections
from weighbridge.server.supervisor.process import TICK_SECONDS, WorkerProcess
from weighbridge.server.supervisor.rollouts import CannotStart, Rollouts
from weighbridge.server.supervisor.systemd import notify, notify_reloading
from weighbridge.settings import InvalidSettings, Settings

_FIRST_DELAY = 0.25
_LONGEST_DELAY = 30.0
_FIXED = (
    *("host", "port", "workers", "admin_host", "admin_port", "admin_token", "models", "models_watch"),
    *("log_level", "log_format"),
)


def _do_nothing() -> None:
    pass


@dataclass(slots=True)
class Slot:
    """The place of one worker, which is kept filled."""

    number: int
    worker: WorkerProcess | None = None
    failures: int = 0
    restarts: int = 0
    reason: str | None = None
    cancel_refill: Callable[[], None] = _do_nothing


class Supervisor:
    """Keeps `settings.workers` workers, each run by `command`, and gives them the connections of a listener.

    They serve the models that `rollouts` decides on. `reread` reads the settings anew when SIGHUP comes, and raises
    InvalidSettings.
    """

    def __init__(
        self,
        command: Sequence[str],
        settings: Settings,
        listener: socket.socket,
        logger: FilteringBoundLogger,
        rollouts: Rollouts,
        reread: Callable[[], Settings],
        *,
        inherited: bool,
    ) -> None:
        self._command = command
        self._settings = settings
        self._logger = logger
        self._rollouts = rollouts
        self._reread = reread
        self._slots = [Slot(number) for number in range(settings.workers)]
        self._workers: dict[WorkerProcess, Slot] = {}
        self._dispatcher = Dispatcher(listener, self._workers.keys(), inherited=inherited)
        self._totals = Totals()
        self._restarts = Counter(dict.fromkeys(("exited", "killed", "hung"), 0))
        self._prepared: set[WorkerProcess] = set()
        self._catching_up: set[asyncio.Task[None]] = set()
        self._most_connections = most_connections(settings)
        self._started = False
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._rolling: asyncio.Task[None] | None = None

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; a second one does not wait for requests in hand. Raises CannotStart."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            with suppress(Stopping):
                async with self._rollouts.changing:
                    await self._rollouts.start(self)
                    self._tick()
                    await self._start()
            if self._started:
                on_ready()
                await self._stopping.wait()
                await self._drain()
        finally:
            await self._end()

    def not_ready(self) -> str | None:
        """Why the service takes no requests; None when it does."""
        if self._stopping.is_set():
            return "draining"
        # One that is silent may be in a long call of a model; one that hangs is replaced soon enough.
        if any(worker.capacity > 0 for worker in self._workers):
            return None
        if any(worker.state is WorkerState.READY for worker in self._workers):
            return "every worker is full"
        opening = [f"opening {', '.join(self._rollouts.opening)}"] if self._rollouts.opening else []
        reasons = (f"worker {slot.number}: {slot.reason}" for slot in self._slots if slot.reason)
        return "; ".join(["starting", *opening, *reasons])

    def workers(self) -> list[WorkerReport]:
        """A report on each worker."""
        return [
            WorkerReport(worker.pid, worker.state, round(worker.age, 3), worker.connections, slot.restarts, slot.reason)
            for worker, slot in self._workers.items()
        ]

    def metrics(self) -> bytes:
        """The metrics of all workers together, those that have ended included."""
        statuses = [worker.status(slot.number) for worker, slot in self._workers.items()]
        statuses += [WorkerStatus(slot.number, None, WorkerState.WAITING) for slot in self._slots if not slot.worker]
        for model, version in self._rollouts.forgotten():
            self._totals.forget(model, version)
        memories = [worker.scoreboard.metrics for worker in self._workers]
        processes = process_families(statuses, self._restarts, self._settings)
        return self._totals.exposition(memories, [*processes, *self._rollouts.metrics()])

    # Start and stop

    async def _start(self) -> None:
        try:
            first = [self._spawn(slot) for slot in self._slots]
        except OSError as exc:
            raise CannotStart(f"could not start {len(self._slots)} workers: {exc.strerror}") from exc
        for slot, worker in zip(self._slots, first, strict=True):
            slot.worker = worker
        came_up = [await worker.came_up for worker in first]
        if self._stopping.is_set():
            return
        if not all(came_up):
            how = self._slots[came_up.index(False)].reason
            raise CannotStart(f"starting failed: a worker {how}; its output says why")
        self._started = True
        self._dispatcher.open()

    def _stop(self) -> None:
        second = self._stopping.is_set()
        notify("STOPPING=1")
        self._stopping.set()
        self._rollouts.stop()
        if second or not self._started:
            self._at_once.set()
            for worker in self._workers:
                worker.kill("the service was stopped")

    async def _drain(self) -> None:
        """Let clients know, then accept no more, then let the workers finish."""
        if self._rolling is not None:
            self._rolling.cancel()
        for slot in self._slots:
            slot.cancel_refill()
        for worker in self._workers:
            if worker.state is WorkerState.STARTING:
                worker.kill("the service was stopped")
            else:
                worker.channel.send(Word.DRAIN)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._at_once.wait(), self._settings.drain_delay)
        await self._dispatcher.finish()
        for worker in self._workers:
            worker.retire(Word.CLOSE)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_gone(), self._settings.drain_timeout)

    async def _end(self) -> None:
        self._stopping.set()
        self._rollouts.stop()
        self._dispatcher.stop()
        for worker in self._workers:
            worker.kill("the service has ended")
        await self._all_gone()
        self._dispatcher.close()

    async def _all_gone(self) -> None:
        for worker in list(self._workers):
            await worker.gone.wait()

    # Workers

    def _fill(self, slot: Slot) -> None:
        try:
            slot.worker = self._spawn(slot)
        except OSError as exc:  # no descriptors or no memory are left: others have to end first
            slot.reason = f"could not be started: {exc.strerror}"
            self._fill_later(slot)

    def _fill_later(self, slot: Slot, died: WorkerProcess | None = None) -> None:
        """Have the slot filled: at once where a worker has lived, or later with each failure in a row."""
        slot.failures = 0 if died is not None and died.has_lived else slot.failures + 1
        delay = _backoff(slot.failures)
        pid = None if died is None else died.pid
        self._logger.error("worker_died", worker=slot.number, pid=pid, reason=slot.reason, restart_in=round(delay, 2))
        slot.cancel_refill = asyncio.get_running_loop().call_later(delay, self._fill, slot).cancel

    def _spawn(self, slot: Slot) -> WorkerProcess:
        worker = WorkerProcess(
            self._command,
            self._settings,
            self._rollouts.catalogue,
            slot=self._free_slot(),
            most_connections=self._most_connections,
        )
        worker.runners = len(self._rollouts.runners())
        self._workers[worker] = slot
        loop = asyncio.get_running_loop()
        loop.add_reader(worker.channel.fileno(), self._listen_to, worker)
        loop.add_reader(worker.pidfd, self._bury, worker)
        self._logger.info("worker_started", worker=slot.number, pid=worker.pid)
        return worker

    def _free_slot(self) -> int:
        """A number that no other worker has, for what each counts on its own."""
        taken = {worker.slot for worker in self._workers}
        return next(slot for slot in count() if slot not in taken)

    def _listen_to(self, worker: WorkerProcess) -> None:
        try:
            while True:
                self._hear(worker, *worker.channel.receive())
        except BlockingIOError:
            return
        except NoRoom:
            asyncio.get_running_loop().remove_reader(worker.channel.fileno())

    def _hear(self, worker: WorkerProcess, word: Word, text: str, descriptors: list[int]) -> None:
        if word is Word.CONNECTIONS:
            self._dispatcher.give(descriptors, kept=KEPT in text)
        elif word is Word.READY:
            self._came_up(worker)
        elif word is Word.BROKEN:
            number, serial, *reason = text.split(" ")
            self._rollouts.broken(int(number), int(serial), " ".join(reason))
        else:
            worker.answered(word, text)

    def _came_up(self, worker: WorkerProcess) -> None:
        """Have a worker answer from now on, unless it has ended, or another one was put in its place meanwhile."""
        if worker.state is not WorkerState.STARTING or worker.ending is not None:
            return
        if worker.missed:
            catching_up = asyncio.ensure_future(self._catch_up(worker))
            self._catching_up.add(catching_up)
            catching_up.add_done_callback(self._catching_up.discard)
            return
        worker.ready()
        for hosted in self._rollouts.hosted:
            self._put_out(worker, hosted)
            for runner in hosted.ready:
                self._connect(worker, hosted, runner)
        self._dispatcher.offer()
        self._dispatcher.spread()

    async def _catch_up(self, worker: WorkerProcess) -> None:
        """Have a worker that has started serve what was decided meanwhile, before it is given anything."""
        try:
            while worker.missed:
                _, hosted = worker.missed.popitem()
                await self._prepare(worker, hosted)
                await worker.ask(Word.COMMIT)
        except ModelRefused as exc:
            worker.kill(f"could not serve its models: {exc}")
        else:
            self._came_up(worker)

    def _bury(self, worker: WorkerProcess) -> None:
        """See to what a worker that has ended leaves behind, and fill its slot again."""
        loop = asyncio.get_running_loop()
        self._listen_to(worker)
        loop.remove_reader(worker.channel.fileno())
        loop.remove_writer(worker.channel.fileno())
        loop.remove_reader(worker.pidfd)
        slot = self._workers.pop(worker)
        while left := worker.never_received():  # as many at a time as there is room for
            self._dispatcher.give_again(left)
        ending = worker.ended()
        self._rollouts.clear(worker.slot)
        self._totals.absorb(worker.scoreboard.metrics)
        if slot.worker is worker:
            slot.worker, slot.reason = None, ending.words
            if self._started and not self._stopping.is_set():
                self._restarts[ending.kind] += 1
                slot.restarts += 1
                self._fill_later(slot, worker)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(TICK_SECONDS, self._tick)
        for worker in list(self._workers):
            worker.look()
            worker.runners = len(self._rollouts.runners())
            loop.add_reader(worker.channel.fileno(), self._listen_to, worker)  # there may be room again
            starts = worker.state is WorkerState.STARTING
            if starts and worker.silent_seconds >= self._settings.load_timeout:  # each model opened is a sign of life
                worker.kill(f"did not get on with its start for {worker.silent_seconds:g} s")
            elif not starts and worker.silent_seconds >= self._settings.hang_timeout:
                worker.kill(f"gave no sign of life for {worker.silent_seconds:g} s")
            elif worker.is_silent and worker.state is WorkerState.READY:
                self._dispatcher.give_again(worker.never_received())
            elif worker.is_full:
                self._dispatcher.give_again(worker.no_room_for())
                worker.read_on()
        self._dispatcher.offer()

    # Models

    async def prepare(self, hosted: Hosted) -> None:
        """Have one worker after the other make ready for a version: others have the processor to themselves meanwhile.

        Raises ModelRefused.
        """
        while (worker := next(self._not_prepared(), None)) is not None:
            try:
                await self._prepare(worker, hosted)
            except ModelRefused as exc:
                if isinstance(exc.__cause__, TimeoutError):
                    self._renew(worker)  # whatever it does there, it can only be ended with the process
                raise
            self._prepared.add(worker)
            for runner in hosted.ready:
                self._connect(worker, hosted, runner)

    async def _prepare(self, worker: WorkerProcess, hosted: Hosted) -> None:
        """Have a worker make ready for a version. Raises ModelRefused."""
        path = f"models/{hosted.name}/{hosted.version}"
        try:
            async with asyncio.timeout(self._settings.load_timeout):
                with lent(hosted.placed) as placed:
                    await worker.ask(Word.PREPARE, hosted.name, [placed])
        except TimeoutError as exc:
            raise ModelRefused(f"{path}: a worker did not open it within {self._settings.load_timeout:g} s") from exc
        except OSError as exc:
            raise ModelRefused(f"{path}: no file descriptor is left") from exc

    async def commit(self, hosted: Hosted) -> None:
        """Have all serve a version: those that start before they serve anything else, the others now.

        Who cannot is replaced.
        """
        for worker in self._workers:
            if worker.state is WorkerState.STARTING:  # it has read the files of before, which may have changed since
                worker.missed[hosted.name] = hosted
        with suppress(ModelRefused):
            await self.prepare(hosted)  # those that have come up since the others did
        for worker in list(self._not_prepared()):
            self._renew(worker)
        prepared, self._prepared = self._prepared, set()
        await asyncio.gather(*(self._commit(worker) for worker in prepared))

    async def _commit(self, worker: WorkerProcess) -> None:
        try:
            async with asyncio.timeout(self._settings.hang_timeout):
                await worker.ask(Word.COMMIT)
        except (TimeoutError, ModelRefused):
            worker.kill("did not serve the version that was decided on")

    def abort(self) -> None:
        """Have every worker forget what it has prepared, or is preparing."""
        self._prepared.clear()
        for worker in self._workers:
            if worker.state is WorkerState.READY:  # one that catches up prepares what was decided before
                worker.channel.send(Word.ABORT)

    def connect(self, hosted: Hosted, runner: RunnerProcess) -> None:
        """Have every worker ask another runner of a version."""
        for worker in self._workers:
            self._connect(worker, hosted, runner)

    def put_out(self, hosted: Hosted) -> None:
        """Let every worker know that a version is out of service."""
        for worker in self._workers:
            self._put_out(worker, hosted)

    def _put_out(self, worker: WorkerProcess, hosted: Hosted) -> None:
        if hosted.unavailable is not None:
            worker.tell(Word.OUT, f"{hosted.number} {hosted.unavailable}")

    def _connect(self, worker: WorkerProcess, hosted: Hosted, runner: RunnerProcess) -> None:
        """Have a worker ask a runner; one that starts is told of all once it is ready."""
        if worker.state is WorkerState.STARTING or hosted.board is None or runner.ended.done() or worker.gone.is_set():
            return
        end = runner.meet()
        if end is None:  # without descriptors it has to wait
            asyncio.get_running_loop().call_later(TICK_SECONDS, self._connect, worker, hosted, runner)
            return
        with end:
            text = f"{hosted.number} {runner.serial} {worker.slot}"
            worker.tell(Word.RUNNER, text, [end.fileno(), hosted.board])

    def tell(self) -> None:
        """Let every worker know the catalogue."""
        catalogue = Catalogue(entries=self._rollouts.catalogue.entries)
        with suppress(OSError), lent(catalogue) as written:  # without descriptors the next one will do
            for worker in self._workers:
                worker.channel.send(Word.CATALOGUE, "", [written])

    def _not_prepared(self) -> Iterator[WorkerProcess]:
        return (
            worker for worker in self._workers if worker.state is WorkerState.READY and worker not in self._prepared
        )

    def _renew(self, worker: WorkerProcess) -> None:
        """Have another worker in the place of one that does not serve what was decided on; nothing is lost by that."""
        slot = self._workers[worker]
        slot.worker = None
        worker.retire(Word.RETIRE)
        self._fill(slot)

    # Rolling

    def _reload(self) -> None:
        if self._started and not self._stopping.is_set():
            self._rolling = asyncio.ensure_future(self._roll(self._rolling))

    async def _roll(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.gather(previous, return_exceptions=True)  # which is cancelled with this one
        async with self._rollouts.changing:
            notify_reloading()
            replaced = await self._replace_all()
        if replaced:
            await self._rollouts.heed(self._settings)
            self._logger.info("reloaded")
        notify("READY=1")

    async def _replace_all(self) -> bool:
        """Replace every worker by one with the settings read anew, or change nothing if the first does not come up.

        Whether all were replaced.
        """
        try:
            settings = self._reread()
        except InvalidSettings as exc:
            self._refuse_reload(str(exc))
            return False
        former = self._settings
        fixed = {name: getattr(former, name) for name in _FIXED if getattr(former, name) != getattr(settings, name)}
        if fixed:
            self._logger.warning("settings_need_a_restart", settings=list(fixed))
        self._settings = settings.model_copy(update=fixed)
        for slot in self._slots:
            worker, failures = await self._come_up(slot), 0
            if isinstance(worker, str) and slot is self._slots[0]:
                self._settings = former
                self._refuse_reload(f"a worker with the new settings {worker}")
                return False
            while isinstance(worker, str):
                failures += 1
                await self._wait_to_fill(slot, worker, _backoff(failures))
                if self._rolling is not asyncio.current_task():  # the next roll begins with settings that may be better
                    return False
                worker = await self._come_up(slot)
            await self._succeed(slot, worker)
        return True

    async def _wait_to_fill(self, slot: Slot, reason: str, delay: float) -> None:
        """Wait after a new worker did not come up, and let operations on models through, which may be the cure."""
        self._logger.error("worker_died", worker=slot.number, pid=None, reason=reason, restart_in=round(delay, 2))
        self._rollouts.changing.release()
        try:
            await asyncio.sleep(delay)
        finally:
            await self._rollouts.changing.acquire()

    async def _come_up(self, slot: Slot) -> WorkerProcess | str:
        """A new worker for the slot, once it is ready; or what became of it."""
        try:
            worker = self._spawn(slot)
        except OSError as exc:
            return f"could not be started: {exc.strerror}"
        await worker.came_up
        return worker if worker.ending is None else worker.ending.words

    def _refuse_reload(self, reason: str) -> None:
        self._logger.error("reload_refused", reason=reason)

    async def _succeed(self, slot: Slot, worker: WorkerProcess) -> None:
        """Put a new worker in the place of the one in the slot, which hands back its connections and ends."""
        old, slot.worker = slot.worker, worker
        slot.cancel_refill()
        if old is None:  # it has died, and was to be replaced
            return
        old.retire(Word.RETIRE)
        try:
            await asyncio.wait_for(old.gone.wait(), self._settings.drain_timeout)
        except TimeoutError:
            old.kill("requests in hand took too long")


def _backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, jittered, so that workers do not all come back at once."""
    if not failures:
        return 0.0
    return min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** (failures - 1)) * (0.75 + randbelow(50) / 100)

"""The one process, where a real one cannot be made to do what is asked at the right moment."""

import asyncio
import os
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger
from typing_extensions import override

from tests.unit.log import Log
from tests.unit.server.fake_repository import FakeOpenings, FakeRepository
from tests.unit.server.opened import Asked, FakeModels, application
from tests.unit.trained import ANSWER, NAME, ROW, trained
from tests.waiting import DEADLINE, until
from weighbridge.adapters.logs import start_logging
from weighbridge.adapters.manifest import Options
from weighbridge.adapters.runners.terms import Placed
from weighbridge.application.catalogue import Calls
from weighbridge.domain.errors import ModelRefused
from weighbridge.entrypoints.asgi import create_app
from weighbridge.server import alone as module
from weighbridge.server.alone import Alone
from weighbridge.server.catalogue import Stopping
from weighbridge.server.edge.opening import NoModels, Opening
from weighbridge.server.runner import runners
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.runners import Runners
from weighbridge.server.supervisor.listener import listen, url_of
from weighbridge.server.supervisor.rollouts import CannotStart, Rollouts
from weighbridge.settings import Settings


async def stopped_while_it_starts(_scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    signal.raise_signal(signal.SIGTERM)
    for _ in range(10):  # turns of the loop, in which the signal is handled
        await asyncio.sleep(0)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


@contextmanager
def alone(
    app: ASGIApp, logger: FilteringBoundLogger, repository: FakeRepository, openings: FakeOpenings
) -> Iterator[Alone]:
    """The one process, yet to be run."""
    settings = Settings(load_timeout=0.3)
    rollouts = Rollouts(repository, openings, settings, logger)
    with closing(listen("127.0.0.1", 0)) as listener:
        yield Alone(lambda: app, bytearray(8), settings, listener, rollouts, inherited=False)


async def run(service: Alone) -> None:
    """Run it to its end."""
    async with asyncio.timeout(DEADLINE):
        await service.run(lambda: None)


def test_a_service_that_is_stopped_while_it_starts_ends_normally(logger: FilteringBoundLogger) -> None:
    with alone(stopped_while_it_starts, logger, FakeRepository(), FakeOpenings()) as service:
        asyncio.run(run(service))

        assert service.not_ready() == "draining"


def test_the_one_process_is_its_own_worker_and_has_nothing_to_reload(
    logger: FilteringBoundLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(module, "notify_reloading", lambda: told.append("reloading"))
    monkeypatch.setattr(module, "notify", told.append)

    with alone(FastAPI(), logger, FakeRepository(), FakeOpenings()) as service:
        [worker] = service.workers()
        service._reload()

        assert service.not_ready() == "starting"
    assert (worker.pid, worker.connections) == (os.getpid(), 0)
    assert told == ["reloading", "READY=1"]


class Interrupted(FakeOpenings):
    """Is interrupted by the end of the service."""

    @override
    async def open(self, name: str, version: str, options: Options) -> Hosted:
        self.may_open.clear()
        signal.raise_signal(signal.SIGTERM)
        return await super().open(name, version, options)


def test_a_service_that_is_stopped_while_its_models_are_opened_ends_normally(logger: FilteringBoundLogger) -> None:
    repository = FakeRepository()
    repository.put("m", "1")
    with alone(FastAPI(), logger, repository, Interrupted()) as service:
        asyncio.run(run(service))

        assert service.not_ready() == "draining"


def raising(error: Exception) -> FastAPI:
    """An application that cannot start."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        raise error
        yield

    return FastAPI(lifespan=lifespan)


def test_a_service_that_cannot_serve_its_models_cannot_start(logger: FilteringBoundLogger) -> None:
    app = raising(ModelRefused("models/m/1: it is broken"))
    with (
        alone(app, logger, FakeRepository(), FakeOpenings()) as service,
        pytest.raises(CannotStart, match=r"^models/m/1: it is broken$"),
    ):
        asyncio.run(run(service))


def test_a_service_that_cannot_start_for_another_reason_ends_as_ever(logger: FilteringBoundLogger) -> None:
    with alone(raising(RuntimeError()), logger, FakeRepository(), FakeOpenings()) as service, pytest.raises(SystemExit):
        asyncio.run(run(service))


def test_what_does_not_open_in_time_is_refused(logger: FilteringBoundLogger) -> None:
    opening = Hanging()
    before = threading.enumerate()

    async def main() -> None:
        with pytest.raises(ModelRefused, match=r"^models/m/2: it did not open within 0.3 s$"):
            await service.prepare(await FakeOpenings().open("m", "2", Options()))

    with alone(FastAPI(), logger, FakeRepository(), FakeOpenings()) as service:
        service._opening = Opening(opening)
        asyncio.run(main())
    service.abort()
    opening.go_on.set()
    for thread in set(threading.enumerate()).difference(before):
        thread.join(DEADLINE)


class Hanging(NoModels):
    """Models that take until they are told to go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    @override
    def open(self, _name: str, _placed: Placed) -> None:
        assert self.go_on.wait(DEADLINE)


@asynccontextmanager
async def running(logger: FilteringBoundLogger, openings: FakeOpenings, models: FakeModels) -> AsyncIterator[Rollouts]:
    """The one process, with version 1 of a model m, which has others; it is stopped in the end."""
    repository, ready = FakeRepository(), asyncio.Event()
    repository.put("m", "1", "2", "3", "4", live="1")
    with alone(application(models), logger, repository, openings) as service, closing(openings):
        async with asyncio.timeout(DEADLINE):
            serving = asyncio.ensure_future(service.run(ready.set))
            await ready.wait()
            try:
                yield service._rollouts
            finally:
                models.go_on.set()
                signal.raise_signal(signal.SIGTERM)
                await serving


def asked(openings: FakeOpenings, *of: tuple[int, bytes]) -> list[Asked]:
    """The runners, by the numbers of their openings and their names, with what is on every board."""
    board = os.pread(openings.hosted[0].board or 0, 100, 0)
    return [Asked(opening, 0, 0, runner, board) for opening, runner in of]


def test_the_one_process_asks_runners_of_what_is_live_and_of_what_is_opened(logger: FilteringBoundLogger) -> None:
    openings, models = FakeOpenings(1), FakeModels()

    async def main() -> None:
        async with running(logger, openings, models) as rollouts:
            assert models.connected == asked(openings, (1, b"m 1 0"))
            await rollouts.activate("m", "4")
            assert models.connected == asked(openings, (1, b"m 1 0"), (2, b"m 4 0"))
            assert models.installed == ["m 4"]
            openings.replace(openings.hosted[0], 0)
            assert models.connected[2:] == asked(openings, (2, b"m 4 anew 0"))

    asyncio.run(main())


def test_the_one_process_forgets_what_is_not_decided_on(logger: FilteringBoundLogger) -> None:
    openings, models = FakeOpenings(1), FakeModels()

    async def main() -> None:
        async with running(logger, openings, models) as rollouts:
            for version in ("2", "3"):
                with pytest.raises(ModelRefused):
                    await rollouts.activate("m", version)
            assert (models.installed, openings.retired) == ([], [("m", "2"), ("m", "3")])

    asyncio.run(main())


def test_the_one_process_knows_what_is_out_of_service(logger: FilteringBoundLogger) -> None:
    openings, models = FakeOpenings(1), FakeModels()

    async def main() -> None:
        async with running(logger, openings, models):
            openings.put_out(openings.hosted[0], "its process was killed")
            assert models.out == [(1, "its process was killed")]
            assert models.told[-1]["m"].versions[0].reason == "its process was killed"

    asyncio.run(main())


class ShortLived(FakeOpenings):
    """Puts every version out of service as soon as it is open."""

    @override
    async def open(self, name: str, version: str, options: Options) -> Hosted:
        hosted = await super().open(name, version, options)
        asyncio.get_running_loop().call_soon(self.put_out, hosted, "its process was killed")
        return hosted


def test_the_one_process_knows_what_was_out_of_service_before_it_could_answer(logger: FilteringBoundLogger) -> None:
    openings, models = ShortLived(1), FakeModels()

    async def main() -> None:
        async with running(logger, openings, models):
            assert models.connected == []
            assert models.out == [(1, "its process was killed")]

    asyncio.run(main())


def test_the_one_process_reports_a_runner_that_sends_what_it_may_not(logger: FilteringBoundLogger) -> None:
    openings, models = FakeOpenings(1), FakeModels()

    async def main() -> None:
        async with running(logger, openings, models):
            models.broken(1, 0, "expected a frame, got a pickle")
            assert openings.blamed == [(1, 0, "expected a frame, got a pickle")]

    asyncio.run(main())


def test_an_operation_that_waits_for_a_start_that_fails_ends_with_it(logger: FilteringBoundLogger) -> None:
    repository, openings = FakeRepository(), FakeOpenings()
    repository.put("m", "1", "2", live="1")
    openings.refused["1"] = "models/m/1: it is broken"

    async def main() -> None:
        with alone(application(FakeModels()), logger, repository, openings) as service:
            activation = asyncio.ensure_future(service._rollouts.activate("m", "2"))
            with pytest.raises(CannotStart, match="it is broken"):
                await service.run(lambda: None)
            with pytest.raises(Stopping):
                await activation

    asyncio.run(main())


# With models that are opened


@asynccontextmanager
async def serving(models: Path, log: Log) -> AsyncIterator[tuple[Alone, Rollouts, str]]:
    """The one process as it is put together, its rollouts, and where it answers."""
    settings = Settings(models=str(models), workers=0)
    live = dict[str, Placed]()
    container = log.container(models=settings.models, workers=0)
    container.live.override(live)
    with contextmanager(start_logging)(log.descriptor, level="info", log_format="json") as logger:
        openings = Runners(settings, logger)
        rollouts = Rollouts(container.repository(), openings, settings, logger)
        ready = asyncio.Event()

        def app() -> ASGIApp:
            live.update(rollouts.catalogue.live)
            return create_app(container)

        with closing(listen("127.0.0.1", 0)) as listener:
            service = Alone(app, log.memory, settings, listener, rollouts, inherited=False)
            ran = asyncio.ensure_future(service.run(ready.set))
            await ready.wait()
            yield service, rollouts, url_of(listener, secure=False)
            signal.raise_signal(signal.SIGTERM)
            await ran
        openings.close()


async def ask(url: str) -> dict[str, Any]:
    """What the model says of a row."""
    reply = await asyncio.to_thread(httpx2.post, f"{url}/models/{NAME}/predict", json=ROW, timeout=DEADLINE)
    answer: dict[str, Any] = reply.json()
    return answer


def test_the_one_process_has_its_models_in_processes_that_end_with_it(tmp_path: Path, log: Log) -> None:
    async def main() -> None:
        async with serving(trained(tmp_path), log) as (service, rollouts, url):
            assert (await ask(url))["prediction"] == pytest.approx(ANSWER)
            processes.extend(report.pid for report in rollouts.runners())
            assert 'runner="0",version="1"} 1.0' in service.metrics().decode()

    processes: list[int | None] = []
    asyncio.run(main())

    assert len(processes) == 1
    until(lambda: not Path(f"/proc/{processes[0]}").exists())


def test_the_one_process_opens_and_calls_its_models_itself_where_it_can_start_none(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "can_be_started", lambda: False)
    model = trained(tmp_path) / NAME
    shutil.copytree(model / "1", model / "2")
    (model / "rollout.toml").write_text('live = "1"')

    async def main() -> None:
        async with serving(tmp_path, log) as (_, rollouts, url):
            assert (await ask(url))["version"] == "1"
            await rollouts.activate(NAME, "2")
            assert (await ask(url))["version"] == "2"
            assert rollouts.catalogue.entries[NAME].calls == Calls("thread", 0, False, 0.0, 0.0)
            assert rollouts.runners() == []

    asyncio.run(main())

    assert len(log.of("models_not_confined")) == 1

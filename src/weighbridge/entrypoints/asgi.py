"""The ASGI application, for `weighbridge serve` and for any other ASGI server (`create_app` is its factory)."""

from asyncio import Semaphore, gather, to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import FastAPI

from weighbridge import __version__
from weighbridge.adapters import catalogue
from weighbridge.adapters.http import health, index, model_routes, openapi, prediction
from weighbridge.adapters.http.envelope import Envelope
from weighbridge.adapters.http.errors import install_handlers
from weighbridge.adapters.http.fast_route import CompiledRoute, FastRoute, compile_routes
from weighbridge.adapters.http.model_host import ModelHost, Opened
from weighbridge.adapters.metrics import EMBEDDED_LABEL
from weighbridge.adapters.runners.terms import Placed
from weighbridge.adapters.system.machine import usable_cores
from weighbridge.container import Container
from weighbridge.server.edge.lane import Lane
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.runner.runners import Runners, connect
from weighbridge.settings import Settings, service_links

_EMBEDDED_SLICE_ROWS = 10_000  # of the dot product of a few weights, which take some milliseconds


def create_app(container: Container | None = None) -> FastAPI:
    """The service as an application; without a container, made from the settings of this process.

    Raises InvalidSettings.
    """
    if container is None:
        container = Container(settings=Settings.load())
    app = FastAPI(
        title="Weighbridge",
        version=__version__,
        description="A trained model as an HTTP service.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=_lifespan,
    )
    app.state.container = container
    app.state.max_body_bytes = container.settings().max_body_bytes
    app.state.calls = {}
    embedded = (prediction,) if container.settings().has_embedded else ()
    for resource in (index, health, *embedded, model_routes, openapi):
        app.include_router(resource.router)
    install_handlers(app)
    app.add_middleware(Envelope, telemetry=container.telemetry, deadline_ms=container.settings().deadline_ms)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Build every collaborator and load every model before the first request, and take all down after the last.

    What it yields is the state of the server that runs it; only our own knows what to do with `lane` and `models`.
    Raises InvalidWeights, ModelRefused.
    """
    container: Container = app.state.container
    container.init_resources()
    logger = container.logger()
    try:
        compiled = compile_routes(app)
        app.state.calls = {route.endpoint: call for route, call in compiled}
        lane = _lane(compiled, container)
        models = container.models()
        if container.settings().fast_lane:
            models.on_install = partial(_lead_to, lane)
        async with _opened_models(models, container):
            readiness = container.readiness()
            readiness.started()
            links = service_links()
            if links:
                logger.info("service_links_ignored", variables=links)
            logger.info("service_started", version=__version__)
            yield {"lane": lane, "models": models}
            readiness.draining()
    finally:
        logger.info("service_stopped")
        container.shutdown_resources()


def _lane(compiled: list[tuple[FastRoute, CompiledRoute]], container: Container) -> Lane:
    routes = {
        (method.encode(), route.path.encode()): call for route, call in compiled for method in route.methods or ()
    }
    lane_routes = routes if container.settings().fast_lane else {}
    return Lane(lane_routes, container.telemetry(), container.readiness(), container.queue())


def _lead_to(lane: Lane, opened: Opened) -> None:
    """Have the fast lane answer the requests to a version that has become live."""
    routes = {(b"POST", opened.path(template).encode()): route for template, route in opened.routes.items()}
    lane.lead_to(opened.label.name, routes)


@asynccontextmanager
async def _opened_models(models: ModelHost, container: Container) -> AsyncIterator[None]:
    """Have all models answer meanwhile; without a supervisor, with runners of this process. Raises ModelRefused."""
    live, opened = container.live(), container.opened()
    try:
        if container.settings().has_embedded:
            await _install(models, EMBEDDED_LABEL.name, Placed(EMBEDDED_LABEL.version, _EMBEDDED_SLICE_ROWS))
        if live is None:
            async with _own_runners(models, container):
                yield
        else:
            for name, placed in live.items():
                await _install(models, name, placed)
                opened()
            yield
    finally:
        await container.clients().close()


@asynccontextmanager
async def _own_runners(models: ModelHost, container: Container) -> AsyncIterator[None]:
    """Open all models that the repository has live, with runners that end in the end. Raises ModelRefused."""
    runners = Runners(container.settings(), container.logger())
    runners.came = partial(connect, models)
    runners.gone = lambda hosted: models.put_out(hosted.number, hosted.unavailable or "")
    models.supervise(runners.broken)
    found = await to_thread(container.repository().scan)
    wanted = catalogue.wanted(found)
    told = dict(catalogue.entries(found, wanted))
    turns = Semaphore(usable_cores())

    async def opened(name: str, version: str) -> Hosted:
        async with turns:
            return await runners.open(name, version, found[name].options(version))

    try:
        for hosted in await gather(*map(opened, wanted, wanted.values())):
            name = hosted.name
            told[name] = replace(told[name], calls=hosted.entry())
            await _install(models, name, hosted.placed)
            for runner in hosted.ready:
                connect(models, hosted, runner)
        models.tell(told)
        yield
    finally:
        runners.close()


async def _install(models: ModelHost, name: str, placed: Placed) -> None:
    """Raises ModelRefused."""
    models.install(await to_thread(models.open, name, placed))

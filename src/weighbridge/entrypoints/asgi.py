"""The ASGI application, for `weighbridge serve` and for any other ASGI server (`create_app` is its factory)."""

from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI

from weighbridge import __version__
from weighbridge.adapters import stock
from weighbridge.adapters.http import health, index, model_routes, openapi, prediction
from weighbridge.adapters.http.envelope import Envelope
from weighbridge.adapters.http.errors import install_handlers
from weighbridge.adapters.http.fast_route import Call, FastRoute, compile_routes
from weighbridge.adapters.http.models import ModelHost, Opened
from weighbridge.adapters.metrics import EMBEDDED, NO_MODEL
from weighbridge.application.admission import ServiceTime
from weighbridge.container import Container
from weighbridge.server.head import LaneRoute
from weighbridge.server.lane import Lane
from weighbridge.settings import Settings, service_links


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
    for resource in (index, health, prediction, model_routes, openapi):
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
        await _open_models(models, container)
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


def _lane(compiled: list[tuple[FastRoute, Call]], container: Container) -> Lane:
    telemetry = container.telemetry()
    metrics = telemetry.metrics
    routes = {
        (method.encode(), route.path.encode()): LaneRoute(
            call,
            metrics.route(route.path, route.model),
            None if route.model is NO_MODEL else metrics.queue_wait(route.model),
        )
        for route, call in compiled
        for method in route.methods or ()
    }
    return Lane(routes if container.settings().fast_lane else {}, telemetry, container.readiness())


def _lead_to(lane: Lane, opened: Opened) -> None:
    """Have the fast lane answer the requests to a version that has become live."""
    metrics, label = lane.telemetry.metrics, opened.label
    waits, service_time = metrics.queue_wait(label), ServiceTime()
    lane.lead_to(
        label.name,
        {
            (b"POST", opened.path(template).encode()): LaneRoute(
                call, metrics.route(template, label), waits, service_time
            )
            for template, call in opened.calls.items()
        },
    )


async def _open_models(models: ModelHost, container: Container) -> None:
    """Raises ModelRefused."""
    live = container.live()
    if live is None:
        found = await to_thread(container.repository().scan)
        live = stock.wanted(found)
        models.tell(stock.catalogue(found, live))
    for name, version in {EMBEDDED.name: EMBEDDED.version, **live}.items():
        models.install(await to_thread(models.open, name, version))

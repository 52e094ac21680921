"""The ASGI application, for `weighbridge serve` and for any other ASGI server (`create_app` is its factory)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from weighbridge import __version__
from weighbridge.adapters.http import health, index, openapi, prediction
from weighbridge.adapters.http.envelope import Envelope
from weighbridge.adapters.http.errors import install_handlers
from weighbridge.adapters.http.fast_route import Call, FastRoute, compile_routes
from weighbridge.adapters.metrics import MODEL_ROUTES
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
    for resource in (index, health, prediction, openapi):
        app.include_router(resource.router)
    install_handlers(app)
    app.add_middleware(Envelope, telemetry=container.telemetry, deadline_ms=container.settings().deadline_ms)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[dict[str, Lane]]:
    """Build every collaborator before the first request, and take them down after the last.

    What it yields is the state of the server that runs it; only our own knows what to do with the lane.
    """
    container: Container = app.state.container
    container.init_resources()
    logger = container.logger()
    try:
        compiled = compile_routes(app)
        app.state.calls = {route.endpoint: call for route, call in compiled}
        readiness = container.readiness()
        readiness.started()
        links = service_links()
        if links:
            logger.info("service_links_ignored", variables=links)
        logger.info("service_started", version=__version__)
        yield {"lane": _lane(compiled, container)}
        readiness.draining()
    finally:
        logger.info("service_stopped")
        container.shutdown_resources()


def _lane(compiled: list[tuple[FastRoute, Call]], container: Container) -> Lane:
    telemetry = container.telemetry()
    metrics = telemetry.metrics
    waits = {path: metrics.queue_wait(model) for path, model in MODEL_ROUTES.items()}
    routes = {
        (method.encode(), route.path.encode()): LaneRoute(call, metrics.route(route.path), waits.get(route.path))
        for route, call in compiled
        for method in route.methods or ()
    }
    return Lane(routes if container.settings().fast_lane else {}, telemetry, container.readiness())

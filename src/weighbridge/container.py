"""The bill of materials: what the service is made of, and the only place where it is put together."""

import operator
from collections.abc import Callable, Mapping

from dependency_injector import containers, providers

from weighbridge.adapters.embedded import EmbeddedFirst, embedded_model
from weighbridge.adapters.http.model_host import ModelHost
from weighbridge.adapters.loading import Loader
from weighbridge.adapters.logs import start_logging
from weighbridge.adapters.metrics import RequestMetrics
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runners.client import RunnerClients
from weighbridge.adapters.runners.terms import Placed
from weighbridge.adapters.runtimes import Trust
from weighbridge.adapters.series import MEMORY_BYTES
from weighbridge.adapters.telemetry import RequestTelemetry
from weighbridge.adapters.weights import SettingsWeights
from weighbridge.application.live import LiveModels
from weighbridge.application.predict import PredictUseCase
from weighbridge.application.queue import Queue
from weighbridge.application.readiness import Readiness
from weighbridge.settings import Settings


class Container(containers.DeclarativeContainer):
    """Every collaborator, built once from the settings: `Container(settings=Settings.load())`.

    `live` has the live version of each model by its name, and where it is called, where a supervisor says so; with None
    it is the repository. `opened` is called after each of them as the application starts.
    """

    settings = providers.Dependency(instance_of=Settings)
    log_descriptor = providers.Object(1)
    live: providers.Object[Mapping[str, Placed] | None] = providers.Object(None)
    opened: providers.Object[Callable[[], None]] = providers.Object(lambda: None)

    logger = providers.Resource(
        start_logging,
        log_descriptor,
        level=settings.provided.log_level,
        log_format=settings.provided.log_format,
    )
    memory = providers.Callable(bytearray, MEMORY_BYTES)
    metrics = providers.Singleton(RequestMetrics, memory)
    telemetry = providers.Singleton(
        RequestTelemetry,
        logger,
        metrics,
        policy=settings.provided.log_requests,
        slow_ms=settings.provided.slow_request_ms,
    )
    max_wait = providers.Callable(operator.truediv, settings.provided.max_wait_ms, 1000)
    weights = providers.Singleton(SettingsWeights, settings)
    loaded_weights = providers.Singleton(operator.methodcaller("load"), weights)
    predict = providers.Singleton(PredictUseCase, weights=loaded_weights, max_rows=settings.provided.max_rows)
    embedded = providers.Singleton(embedded_model, loaded_weights)
    repository = providers.Singleton(Repository, settings.provided.models, settings.provided.load_memory_bytes)
    loader = providers.Singleton(
        Loader,
        repository,
        providers.Factory(Trust, types=settings.provided.trusted_types, python=settings.provided.python_models),
    )
    queue = providers.Singleton(Queue, max_wait=max_wait)
    live_models = providers.Singleton(LiveModels)
    clients = providers.Singleton(RunnerClients, max_rows=settings.provided.max_rows, max_wait=max_wait)
    models = providers.Singleton(
        ModelHost,
        live_models,
        telemetry,
        repository,
        providers.Factory(EmbeddedFirst, embedded.provider, loader),
        clients,
        max_rows=settings.provided.max_rows,
    )
    readiness = providers.Singleton(Readiness)

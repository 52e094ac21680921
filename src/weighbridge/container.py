"""The bill of materials: what the service is made of, and the only place where it is put together."""

from dependency_injector import containers, providers

from weighbridge.adapters.logs import start_logging
from weighbridge.adapters.metrics import RequestMetrics
from weighbridge.adapters.series import MEMORY_BYTES
from weighbridge.adapters.telemetry import RequestTelemetry
from weighbridge.adapters.weights import SettingsWeights
from weighbridge.application.predict import PredictUseCase
from weighbridge.application.readiness import Readiness
from weighbridge.settings import Settings


class Container(containers.DeclarativeContainer):
    """Every collaborator, built once from the settings: `Container(settings=Settings.load())`."""

    settings = providers.Dependency(instance_of=Settings)
    log_descriptor = providers.Object(1)

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
    weights = providers.Singleton(SettingsWeights, settings)
    predict = providers.Singleton(
        PredictUseCase,
        weights=weights.provided.load.call(),
        max_rows=settings.provided.max_rows,
    )
    readiness = providers.Singleton(Readiness)

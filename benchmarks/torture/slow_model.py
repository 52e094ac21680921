"""A model that takes time, in the place of the embedded one.

`TORTURE_CPU_MS` is what a prediction costs, in milliseconds of processor time; a row whose first feature is `BLOCKING`
blocks whoever scores it for a minute.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from time import sleep, thread_time

from dependency_injector import providers
from fastapi import FastAPI
from typing_extensions import override

from weighbridge.adapters.runners.terms import Placed
from weighbridge.application.predict import PredictUseCase
from weighbridge.container import Container
from weighbridge.entrypoints import worker
from weighbridge.settings import Settings

CPU_MS = "TORTURE_CPU_MS"
BLOCKING = 666
_BLOCKED_SECONDS = 60.0


class SlowPredict(PredictUseCase):
    """The embedded model, after a loop that uses the processor."""

    _cpu_seconds = float(os.environ.get(CPU_MS, "0")) / 1000

    @override
    def __call__(self, features: Sequence[float], scale_factor: float = 1.0) -> float:
        if features and features[0] == BLOCKING:
            sleep(_BLOCKED_SECONDS)
        end = thread_time() + self._cpu_seconds
        while thread_time() < end:
            pass
        return super().__call__(features, scale_factor)


def slow_app(settings: Settings, memory: memoryview, live: Mapping[str, Placed], opened: Callable[[], None]) -> FastAPI:
    """The application of a worker of the service, with this model."""
    app = worker.application(settings, memory, live, opened)
    container: Container = app.state.container
    weights = container.weights.provided.load.call()
    container.predict.override(providers.Singleton(SlowPredict, weights=weights, max_rows=settings.max_rows))
    return app

"""The service with a model that takes 5 ms for each row: `python -m tests.integration.burning`, for its worker, too."""

import sys
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

from dependency_injector import providers
from fastapi import FastAPI

from weighbridge.adapters.runners.terms import Placed
from weighbridge.entrypoints import worker
from weighbridge.entrypoints.serve import serve
from weighbridge.server.edge.worker import work
from weighbridge.settings import Settings

COMMAND = (sys.executable, "-m", "tests.integration.burning")
_SECONDS = 0.005


class BurningUseCase:
    """Predicts the number of features, slowly."""

    def __call__(self, features: Sequence[float], _scale_factor: float) -> float:
        end = perf_counter() + _SECONDS
        while perf_counter() < end:
            pass
        return float(len(features))


def application(
    settings: Settings, memory: memoryview, live: Mapping[str, Placed], opened: Callable[[], None]
) -> FastAPI:
    """The application of a worker."""
    app = worker.application(settings, memory, live, opened)
    app.state.container.predict.override(providers.Object(BurningUseCase()))
    return app


if __name__ == "__main__":
    if len(sys.argv) > 1:  # the descriptor of a worker's channel
        work(application)
    else:
        serve({"port": 0}, worker=COMMAND)

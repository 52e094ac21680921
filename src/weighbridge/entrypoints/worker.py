"""The program of a worker: `python -m weighbridge.entrypoints.worker` and the descriptor of its channel."""

from collections.abc import Callable, Mapping

from fastapi import FastAPI

from weighbridge.adapters.runners.terms import Placed
from weighbridge.container import Container
from weighbridge.entrypoints.asgi import create_app
from weighbridge.server.edge.worker import work
from weighbridge.settings import Settings


def application(
    settings: Settings, memory: memoryview, live: Mapping[str, Placed], opened: Callable[[], None]
) -> FastAPI:
    """The service, which counts in `memory` and serves the versions that are `live`, by their models' names.

    It calls `opened` after each of them as it starts.
    """
    return create_app(Container(settings=settings, memory=memory, live=live, opened=opened))


if __name__ == "__main__":
    work(application)

"""The program of a worker: `python -m weighbridge.entrypoints.worker` and the descriptor of its channel."""

from collections.abc import Mapping

from fastapi import FastAPI

from weighbridge.adapters.runners.terms import Placed
from weighbridge.container import Container
from weighbridge.entrypoints.asgi import create_app
from weighbridge.server.edge.worker import work
from weighbridge.settings import Settings


def application(settings: Settings, memory: memoryview, live: Mapping[str, Placed]) -> FastAPI:
    """The service, which counts in `memory` and serves the versions that are `live`, by their models' names."""
    return create_app(Container(settings=settings, memory=memory, live=live))


if __name__ == "__main__":
    work(application)

"""The program of a worker: `python -m weighbridge.entrypoints.worker` and the descriptor of its channel."""

from fastapi import FastAPI

from weighbridge.container import Container
from weighbridge.entrypoints.asgi import create_app
from weighbridge.server.worker import work
from weighbridge.settings import Settings


def application(settings: Settings, memory: memoryview) -> FastAPI:
    """The service, which counts in `memory`."""
    return create_app(Container(settings=settings, memory=memory))


if __name__ == "__main__":
    work(application)

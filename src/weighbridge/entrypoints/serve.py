"""`weighbridge serve`: a process that supervises workers, or one that does everything."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
import uvloop
from structlog.typing import FilteringBoundLogger

from weighbridge import __version__
from weighbridge.adapters.logs import start_logging
from weighbridge.server.listener import CannotListen, listen, tls_context, url_of
from weighbridge.server.supervisor import Supervisor
from weighbridge.settings import InvalidSettings, Settings

WORKER = (sys.executable, "-m", "weighbridge.entrypoints.worker")


def serve(flags: Mapping[str, Any], *, worker: Sequence[str] = WORKER) -> None:
    """Serve with the settings of this process, those that flags give first, until SIGTERM or SIGINT.

    `worker` is the command of a worker, which calls `weighbridge.server.worker.work`.
    Raises InvalidSettings, CannotStart.
    """
    _occupy_standard_streams()
    settings = Settings.load(**flags)
    secure = tls_context(settings) is not None
    listener = _listen(settings, flags)
    url = url_of(listener, secure=secure)

    def announce(logger: FilteringBoundLogger) -> None:
        logger.info("listening", url=url)
        if os.isatty(1):
            click.echo(_welcome(url, settings), err=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if settings.workers:
            with contextmanager(start_logging)(1, level=settings.log_level, log_format=settings.log_format) as logger:
                supervisor = Supervisor(worker, settings, listener, logger, lambda: _reread(flags))
                runner.run(supervisor.run(lambda: announce(logger)))
        else:
            runner.run(_alone(settings, listener, announce))


async def _alone(settings: Settings, listener: socket.socket, announce: Callable[[FilteringBoundLogger], None]) -> None:
    from weighbridge.container import Container
    from weighbridge.entrypoints.asgi import create_app
    from weighbridge.server.alone import Alone

    container = Container(settings=settings)
    await Alone(lambda: create_app(container), settings, listener, lambda: announce(container.logger())).run()


def _reread(flags: Mapping[str, Any]) -> Settings:
    settings = Settings.load(**flags)
    tls_context(settings)  # so that files which cannot be used are refused before a worker tries
    return settings


def _listen(settings: Settings, flags: Mapping[str, Any]) -> socket.socket:
    try:
        return listen(settings.host, settings.port)
    except CannotListen as exc:
        field, got, expected = (
            ("host", repr(settings.host), "an address of this machine")
            if exc.host_is_wrong
            else ("port", settings.port, "a port that can be listened on")
        )
        name = f"--{field}" if field in flags else f"WEIGHBRIDGE_{field.upper()}"
        raise InvalidSettings(f"{name}: expected {expected}, got {got}: {exc}") from exc


def _occupy_standard_streams() -> None:
    """Put the null device where a standard stream is closed: the next socket would stand there, and be logged into."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest descriptor that is free: this one


def _welcome(url: str, settings: Settings) -> str:
    row = json.dumps({"features": [1.0] * len(settings.weights)})
    return f"""
  Weighbridge {__version__} answers at {url}
  Docs: {url}/docs
  Try:  curl {url}/predict -H 'Content-Type: application/json' -d '{row}'
"""

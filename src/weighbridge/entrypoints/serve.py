"""`weighbridge serve`: a process that supervises workers, or one that does everything."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import click
from starlette.types import ASGIApp
from structlog.typing import FilteringBoundLogger

from weighbridge import __version__
from weighbridge.adapters.logs import start_logging
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runners.terms import Placed
from weighbridge.adapters.series import MEMORY_BYTES
from weighbridge.adapters.system.event_loop import new_event_loop
from weighbridge.adapters.system.orphans import reaping
from weighbridge.adapters.system.priority import wake_gently
from weighbridge.adapters.system.processes import NEEDED, can_be_started
from weighbridge.adapters.system.sandbox import Sandbox
from weighbridge.server.runner.runners import Runners
from weighbridge.server.supervisor.control import ControlPlane, Fleet, Operator, serve_control
from weighbridge.server.supervisor.listener import CannotListen, listen, listen_for_admin, tls_context, url_of
from weighbridge.server.supervisor.rollouts import Rollouts
from weighbridge.server.supervisor.supervisor import Supervisor
from weighbridge.server.supervisor.systemd import feed_watchdog, inherited_listener, notify
from weighbridge.server.supervisor.watch import watching
from weighbridge.settings import InvalidSettings, Settings

WORKER = (sys.executable, "-m", "weighbridge.entrypoints.worker")

Logger = Callable[[], FilteringBoundLogger]


def serve(flags: Mapping[str, Any], *, worker: Sequence[str] = WORKER) -> None:
    """Serve with the settings of this process, those that flags give first, until SIGTERM or SIGINT.

    `worker` is the command of a worker, which calls `weighbridge.server.edge.worker.work`.
    Raises InvalidSettings, CannotStart.
    """
    _occupy_standard_streams()
    # One row is too little to share between threads, which spin while they wait. Workers inherit it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    inherited = inherited_listener()
    settings = Settings.load(**flags)
    tls_context(settings)  # so that files which cannot be used are told before anything starts
    listener = inherited or _listen(settings, flags)
    ports = _Ports(settings, listener, listen_for_admin(settings), inherited=inherited is not None)
    supervised = settings.workers > 0 and can_be_started()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_supervise(ports, worker, flags) if supervised else _serve_alone(ports))


class _Ports:
    """What the service listens on, and how that is announced."""

    def __init__(
        self, settings: Settings, data: socket.socket, admin: socket.socket | None, *, inherited: bool
    ) -> None:
        self.settings = settings
        self.data = data
        self.inherited = inherited
        self._admin = admin
        self._url = url_of(data, secure=settings.tls_cert is not None)

    @asynccontextmanager
    async def administered(self, fleet: Fleet, operator: Operator, logger: Logger) -> AsyncIterator[None]:
        """Meanwhile the admin listener tells of `fleet`, and has `operator` do what it is asked for."""
        if self._admin is None:
            yield
            return
        secret = self.settings.admin_token
        token = None if secret is None else secret.get_secret_value()
        plane = ControlPlane(fleet, operator, token=token, failed=_failed(logger))
        async with serve_control(plane, self._admin):
            yield

    def announce(self, logger: FilteringBoundLogger) -> None:
        """Say where the service answers, now that it does; and to systemd, from now on, that it lives."""
        settings = self.settings
        if settings.python_models or settings.trusted_types:
            allowed = {"python_models": settings.python_models, "trusted_types": settings.trusted_types}
            logger.warning("models_may_run_code", **allowed)
        if settings.models is not None:
            _tell_of_sandbox(settings, logger)
        if self._admin is not None:
            logger.info("admin_listening", url=url_of(self._admin, secure=False))
        logger.info("listening", url=self._url)
        if os.isatty(1):
            click.echo(welcome(self._url, self.settings), err=True)
        notify("READY=1")
        self._watchdog = asyncio.ensure_future(feed_watchdog())


def _tell_of_sandbox(settings: Settings, logger: FilteringBoundLogger) -> None:
    """Say which rights models give up here: all but what this machine lacks something for."""
    sandbox = Sandbox.offered()
    is_whole = settings.sandbox != "off" and not sandbox.lacking
    tell = logger.info if is_whole else logger.warning
    tell("sandbox", mode=settings.sandbox, landlock=sandbox.landlock, seccomp=sandbox.filters, lacking=sandbox.lacking)


async def _supervise(ports: _Ports, worker: Sequence[str], flags: Mapping[str, Any]) -> None:
    settings = ports.settings
    wake_gently()
    with contextmanager(start_logging)(1, level=settings.log_level, log_format=settings.log_format) as logger:
        runners = Runners(settings, logger)
        rollouts = Rollouts(Repository(settings.models, settings.load_memory_bytes), runners, settings, logger)
        supervisor = Supervisor(
            worker, settings, ports.data, logger, rollouts, lambda: _reread(flags), inherited=ports.inherited
        )
        async with (
            ports.administered(supervisor, rollouts, lambda: logger),
            watching(settings, rollouts.reconcile, lambda: logger),
            reaping(lambda: runners.children | {worker.pid for worker in supervisor.workers()}),
        ):
            try:
                await supervisor.run(lambda: ports.announce(logger))
            finally:
                runners.close()


async def _serve_alone(ports: _Ports) -> None:
    from weighbridge.container import Container
    from weighbridge.entrypoints.asgi import create_app
    from weighbridge.server.alone import Alone

    settings = ports.settings.model_copy(update={"workers": 0})
    memory, live = bytearray(MEMORY_BYTES), dict[str, Placed]()
    container = Container(settings=settings, memory=memory, live=live)
    if ports.settings.workers:
        container.logger().warning("workers_not_started", workers=ports.settings.workers, reason=NEEDED)
    runners = Runners(settings, container.logger())
    rollouts = Rollouts(container.repository(), runners, settings, container.logger())

    def application() -> ASGIApp:
        live.update(rollouts.catalogue.live)
        return create_app(container)

    alone = Alone(application, memory, settings, ports.data, rollouts, inherited=ports.inherited)
    async with (
        ports.administered(alone, rollouts, container.logger),
        watching(settings, rollouts.reconcile, container.logger),
        reaping(lambda: runners.children),
    ):
        try:
            await alone.run(lambda: ports.announce(container.logger()))
        finally:
            runners.close()


def _failed(logger: Logger) -> Callable[[Exception, str], None]:
    return lambda exc, request_id: logger().error("request_failed", request_id=request_id, exc_info=exc)


def _reread(flags: Mapping[str, Any]) -> Settings:
    settings = Settings.load(**flags)
    tls_context(settings)
    return settings


def _listen(settings: Settings, flags: Mapping[str, Any]) -> socket.socket:
    try:
        return listen(settings.host, settings.port)
    except CannotListen as exc:
        field, on = ("host", repr(settings.host)) if exc.host_is_wrong else ("port", f"port {settings.port}")
        name = f"--{field}" if field in flags else f"WEIGHBRIDGE_{field.upper()}"
        raise InvalidSettings(f"{name}: cannot listen on {on}: {exc}") from exc


def _occupy_standard_streams() -> None:
    """Put the null device where a standard stream is closed, for workers too.

    The next socket would stand there, and be logged into; libuv aborts a process that closes a descriptor so low.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest descriptor that is free: this one
            os.set_inheritable(null, True)


def welcome(url: str, settings: Settings) -> str:
    """The text for a terminal: where the service answers, and a request to try."""
    attempt = f"{url}/models"
    if settings.has_embedded:
        row = json.dumps({"features": [1.0] * len(settings.weights)})
        attempt = f"{url}/predict -H 'Content-Type: application/json' -d '{row}'"
    return f"""
  Weighbridge {__version__} answers at {url}
  Docs: {url}/docs
  Try:  curl {attempt}
"""

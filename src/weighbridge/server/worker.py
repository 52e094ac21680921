"""A process that serves an application on a socket that it is given."""

import asyncio
import contextlib
import gc
import signal
import socket
import ssl
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from weighbridge.server.gate import Gate
from weighbridge.server.protocol import GateProtocol
from weighbridge.settings import Settings


class _Server(uvicorn.Server):
    """uvicorn's server behind the gate; a signal ends it normally, where its base would die of it."""

    def __init__(self, config: uvicorn.Config, gate: Gate, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._gate = gate
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._gate.start(asyncio.get_running_loop())
        gc.freeze()  # what start-up has built stays: the collector need not look at it again
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(
    factory: Callable[[], ASGIApp], listener: socket.socket, settings: Settings, *, on_started: Callable[[], None]
) -> None:
    """Serve what `factory` makes until SIGTERM or SIGINT; a second one does not wait for requests in hand.

    `on_started` is called once, when requests are answered.
    """
    gate = Gate(settings)
    config = uvicorn.Config(
        factory,
        factory=True,
        loop="uvloop",
        http=GateProtocol.bound_to(gate),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        ssl_ca_certs=settings.tls_client_ca,
        ssl_cert_reqs=ssl.CERT_NONE if settings.tls_client_ca is None else ssl.CERT_REQUIRED,
    )
    _Server(config, gate, on_started).run([listener])

"""A process that serves an application on a socket that it is given."""

import asyncio
import contextlib
import ctypes
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

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE_BLOCK = 128 * 1024


def _keep_large_blocks_apart() -> None:
    """Have malloc map each large block by itself, so that bodies which grow side by side leave no holes.

    glibc begins so, but moves the threshold up with every large block that is freed. Other libraries have no such call.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


class _Server(uvicorn.Server):
    """uvicorn's server behind the gate; a signal ends it normally, where its base would die of it."""

    def __init__(
        self, config: uvicorn.Config, listener: socket.socket, gate: Gate, on_started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._gate = gate
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        context = self.config.ssl
        handshake_timeout = None if context is None else self._gate.settings.header_timeout
        self.servers.append(
            await loop.create_server(
                self._connection,
                sock=self._listener,
                backlog=self.config.backlog,
                ssl=context,
                ssl_handshake_timeout=handshake_timeout,
            )
        )
        self._gate.start(loop)
        gc.freeze()  # what start-up has built stays: the collector need not look at it again
        self._on_started()

    def _connection(self) -> asyncio.Protocol:
        connect: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return connect(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

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
    factory: Callable[[], ASGIApp],
    listener: socket.socket,
    settings: Settings,
    *,
    tls: ssl.SSLContext | None,
    on_started: Callable[[], None],
) -> None:
    """Serve what `factory` makes until SIGTERM or SIGINT; a second one does not wait for requests in hand.

    `on_started` is called once, when requests are answered.
    """
    _keep_large_blocks_apart()
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
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )
    _Server(config, listener, gate, on_started).run(sockets=[])

"""The ordinary road: uvicorn has the application answer."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from weighbridge.server.edge.head import Request

Addresses = tuple[tuple[str, int | None] | None, tuple[str, int] | None]
"""The server's and the client's; None where there is none to be had."""


def addresses(transport: asyncio.Transport) -> Addresses:
    """Those of a connection."""
    return get_local_addr(transport), get_remote_addr(transport)


class Road:
    """The application of a server, whose config is loaded; asked as uvicorn asks it, but for whole requests."""

    def __init__(
        self, config: Config, state: ServerState, app_state: dict[str, Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.loop = loop
        self.tasks = state.tasks
        self.connections: set[Any] = state.connections
        self.scheme = "https" if config.is_ssl else "http"
        self._app: Any = config.loaded_app
        self._asgi_version = config.asgi_version
        self._state = state
        self._app_state = app_state
        self._logger = logging.getLogger("uvicorn.error")

    def begin(
        self,
        request: Request,
        addresses: Addresses,
        transport: asyncio.Transport,
        flow: FlowControl,
        on_response: Callable[[], None],
        *,
        keep_alive: bool,
    ) -> RequestResponseCycle:
        """Have the application answer a request, whose body is the application's from now on."""
        cycle = RequestResponseCycle(
            scope=self._scope(request, addresses),
            transport=transport,
            flow=flow,
            logger=self._logger,
            access_logger=self._logger,
            access_log=False,
            default_headers=self._state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=on_response,
        )
        cycle.body += request.body
        cycle.more_body = False
        cycle.message_event.set()
        request.body = b""
        task = self.loop.create_task(cycle.run_asgi(self._app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return cycle

    def _scope(self, request: Request, addresses: Addresses) -> Any:
        head = request.head
        server, client = addresses
        url = httptools.parse_url(head.target)
        return {
            "type": "http",
            "asgi": {"version": self._asgi_version, "spec_version": "2.3"},
            "http_version": head.version,
            "server": server,
            "client": client,
            "scheme": self.scheme,
            "method": head.method.decode(),
            "root_path": "",
            "path": unquote(url.path.decode()),
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": head.lines,
            "state": {**self._app_state, "first_byte": request.first_byte},
        }

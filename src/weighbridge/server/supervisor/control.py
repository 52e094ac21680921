"""The admin listener: what probes, Prometheus and operators ask, beside the road of the data.

It lives in the supervisor, which must stay small and owns the signals. So it is a bare ASGI application, on
connections of uvicorn's but without its server.
"""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from hmac import compare_digest
from typing import Any, Protocol

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from weighbridge import __version__
from weighbridge.adapters.http.problems import Problem, RefusedRequest, Reply, internal_error
from weighbridge.adapters.http.request_ids import RequestIds
from weighbridge.domain.errors import ModelNotFound, ModelRefused, NothingToRollBack, VersionNotFound
from weighbridge.server.catalogue import Catalogue, Outcome, Stopping
from weighbridge.server.runner.runners import RunnerReport

_JSON = b"application/json"
_PROMETHEUS_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_PROBES = ("/livez", "/readyz")
_LOOPBACK = re.compile(rb"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d*)?", re.IGNORECASE)
_OWN_SITES = (b"none", b"same-origin")
_END_OF_HEAD = b"\r\n\r\n"

_LARGEST_HEAD = 8192  # bytes
_MOST_CONNECTIONS = 100
_PATIENCE_SECONDS = 5.0
_LOGGER = logging.getLogger(__name__)

Header = tuple[bytes, bytes]
Endpoint = Callable[[], Reply | Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """A worker as operators see it; `restarts` counts how often it was replaced, `reason` is that of the last time."""

    pid: int
    state: str
    age_seconds: float
    connections: int
    restarts: int
    reason: str | None


class Fleet(Protocol):
    """The workers, as far as the admin listener tells of them."""

    def not_ready(self) -> str | None:
        """Why no requests should be sent here; None when they should."""
        ...

    def workers(self) -> list[WorkerReport]:
        """A report on each worker."""
        ...

    def metrics(self) -> bytes:
        """The metrics of all workers together, in Prometheus' text format 0.0.4."""
        ...


class Operator(Protocol):
    """Whoever decides which version of each model is live. Each operation raises Stopping, too."""

    catalogue: Catalogue

    def runners(self) -> list[RunnerReport]:
        """A report on each runner."""
        ...

    async def activate(self, name: str, version: str) -> Outcome:
        """Make a version live. Raises ModelNotFound, VersionNotFound, ModelRefused."""
        ...

    async def rollback(self, name: str) -> Outcome:
        """Make live what was so before. Raises ModelNotFound, NothingToRollBack, ModelRefused."""
        ...

    async def reload(self, name: str) -> Outcome:
        """Make live what the directory says. Raises ModelNotFound, ModelRefused."""
        ...


class ControlPlane:
    """The application of the admin listener: it tells of `fleet`, and `operator` does what it is asked for.

    With a `token`, all but the probes ask for it. Without one a request must name this machine as its host: a page in
    a browser that has its own name resolved to this machine (DNS rebinding) must not read the answers.
    `failed` is told of each error that nobody foresaw, and of the request's id.
    """

    def __init__(
        self, fleet: Fleet, operator: Operator, *, token: str | None, failed: Callable[[Exception, str], None]
    ) -> None:
        self._fleet = fleet
        self._operator = operator
        self._token = None if token is None else token.encode()
        self._failed = failed
        self._request_id = RequestIds().name
        self._routes: dict[str, dict[str, Endpoint]] = {
            "/": {"GET": self._index},
            "/livez": {"GET": self._livez},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
            "/workers": {"GET": self._workers},
            "/runners": {"GET": self._runners},
            "/models": {"GET": self._models},
        }
        self._operations: list[tuple[re.Pattern[str], Callable[..., Awaitable[Outcome]]]] = [
            (re.compile("/models/([^/]+)/versions/([^/]+)/activate"), operator.activate),
            (re.compile("/models/([^/]+)/rollback"), operator.rollback),
            (re.compile("/models/([^/]+)/reload"), operator.reload),
        ]

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one request; its body is not read."""
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        request_id = self._request_id(given[0] if len(given) == 1 else None)
        extra: list[Header] = []
        try:
            reply, extra = await self._answer(scope, request_id)
        except RefusedRequest as refusal:
            reply = refusal.problem.reply(str(refusal), request_id)
        except Exception as exc:
            self._failed(exc, request_id)
            reply = internal_error(request_id)
        headers = [*_headers(reply, request_id), *extra]
        await send({"type": "http.response.start", "status": reply[0], "headers": headers})
        await send({"type": "http.response.body", "body": reply[2]})

    async def _answer(self, scope: Scope, request_id: str) -> tuple[Reply, list[Header]]:
        """The reply, and headers that it has besides those of every reply. Raises RefusedRequest."""
        path, method = scope["path"], scope["method"]
        if self._token is None:
            _check_host(scope["headers"])
            _check_site(method, scope["headers"])
        elif path not in _PROBES and not _bears(scope["headers"], self._token):
            detail = "Send the header Authorization: Bearer, followed by the token"
            return Problem.UNAUTHORIZED.reply(detail, request_id), [(b"www-authenticate", b"Bearer")]
        methods = self._routes.get(path) or self._operation(path)
        if methods is None:
            raise RefusedRequest(Problem.NOT_FOUND, "GET / lists the pages of the admin listener")
        endpoint = methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            detail = "The header Allow lists the supported methods"
            allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])]).encode()
            return Problem.METHOD_NOT_ALLOWED.reply(detail, request_id), [(b"allow", allowed)]
        reply = endpoint()
        return reply if isinstance(reply, tuple) else await reply, []

    def _operation(self, path: str) -> dict[str, Endpoint] | None:
        """The methods of a path that stands for an operation on a model."""
        for pattern, operation in self._operations:
            asked = pattern.fullmatch(path)
            if asked is not None:
                return {"POST": partial(_operate, operation, *asked.groups())}
        return None

    def _index(self) -> Reply:
        links = {path.removeprefix("/"): path for path in self._routes if path != "/"}
        return 200, _JSON, orjson.dumps({"name": "weighbridge", "version": __version__, "links": links})

    def _livez(self) -> Reply:
        return 200, _JSON, b'{"status":"live"}'

    def _readyz(self) -> Reply:
        reason = self._fleet.not_ready()
        if reason is not None:
            raise RefusedRequest(Problem.NOT_READY, reason)
        return 200, _JSON, b'{"status":"ready"}'

    def _metrics(self) -> Reply:
        return 200, _PROMETHEUS_TEXT, self._fleet.metrics()

    def _workers(self) -> Reply:
        return 200, _JSON, orjson.dumps(self._fleet.workers())

    def _runners(self) -> Reply:
        return 200, _JSON, orjson.dumps(self._operator.runners())

    def _models(self) -> Reply:
        return 200, _JSON, orjson.dumps([*self._operator.catalogue.entries.values()])


async def _operate(operation: Callable[..., Awaitable[Outcome]], *of: str) -> Reply:
    """The reply to an operation of a model, or a version. Raises RefusedRequest."""
    try:
        outcome = await operation(*of)
    except ModelNotFound as exc:
        raise RefusedRequest(Problem.MODEL_NOT_FOUND, str(exc)) from exc
    except VersionNotFound as exc:
        raise RefusedRequest(Problem.VERSION_NOT_FOUND, str(exc)) from exc
    except NothingToRollBack as exc:
        raise RefusedRequest(Problem.NOTHING_TO_ROLL_BACK, str(exc)) from exc
    except ModelRefused as exc:
        raise RefusedRequest(Problem.MODEL_REFUSED, str(exc)) from exc
    except Stopping as exc:
        raise RefusedRequest(Problem.NOT_READY, "draining") from exc
    return 200, _JSON, orjson.dumps(outcome)


def _check_host(headers: Iterable[Header]) -> None:
    """Raises RefusedRequest for a request that is not meant for this machine by name."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not _LOOPBACK.fullmatch(hosts[0]):
        detail = "Without WEIGHBRIDGE_ADMIN_TOKEN, the Host header must be localhost, 127.0.0.1 or [::1]"
        raise RefusedRequest(Problem.MISDIRECTED, detail)


def _check_site(method: str, headers: Iterable[Header]) -> None:
    """Raises RefusedRequest for what changes something and comes from a page that is not this machine's own."""
    told = dict(headers)
    own = b"http://" + told[b"host"]
    of_a_page = told.get(b"origin", own) != own or told.get(b"sec-fetch-site", b"none") not in _OWN_SITES
    if method == "POST" and of_a_page:
        raise RefusedRequest(
            Problem.FORBIDDEN, "Pages of other sites may not send operations; use the command, or set a token"
        )


def _bears(headers: Iterable[Header], token: bytes) -> bool:
    scheme, _, given = dict(headers).get(b"authorization", b"").partition(b" ")
    return scheme.lower() == b"bearer" and compare_digest(given.strip(), token)


def _headers(reply: Reply, request_id: str) -> list[Header]:
    _, media_type, body = reply
    return [
        (b"date", formatdate(usegmt=True).encode()),
        (b"content-length", str(len(body)).encode()),
        (b"content-type", media_type),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]


class _Connection(HttpToolsProtocol):
    """A connection for one request: a head of bounded size, and nothing of what follows it.

    `others` are all connections that are open, oldest first. One too many cuts the oldest that waits for no operation,
    so that idle ones cannot keep a probe out; and a connection is cut when its time is over, unless it waits for one.
    """

    def __init__(self, others: "dict[_Connection, None]", config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self.logger = _LOGGER
        self.ended = self.loop.create_future()
        self._others = others
        self._head = b""
        self._asked = False
        self.operates = False

    @override
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._others[self] = None
        self._time_is_over = self.loop.call_later(_PATIENCE_SECONDS, transport.abort)
        if len(self._others) > _MOST_CONNECTIONS:
            next(other for other in self._others if not other.operates or other is self).transport.abort()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._time_is_over.cancel()
        del self._others[self]
        self.ended.set_result(None)

    @override
    def data_received(self, data: bytes) -> None:
        if self._asked:
            return
        self._head += data
        length = self._head.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        whole = length >= len(_END_OF_HEAD)
        if (length if whole else len(self._head)) > _LARGEST_HEAD:
            self._refuse(Problem.HEADERS_TOO_LARGE, f"Request line and headers may have at most {_LARGEST_HEAD} bytes")
        elif whole:
            self._asked = True
            if self._head.startswith(b"POST "):
                self.operates = True
                self._time_is_over.cancel()
            super().data_received(self._head[:length])

    @override
    def eof_received(self) -> Any:
        """The client sends no more: stay, by returning True, to answer what it has asked."""
        return self._asked

    @override
    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem.BAD_REQUEST, "The request is not valid HTTP/1.1 (RFC 9112)")

    def _refuse(self, problem: Problem, detail: str) -> None:
        self._asked = True
        request_id = RequestIds().name(None)
        reply = problem.reply(detail, request_id)
        lines = (b"%b: %b\r\n" % header for header in _headers(reply, request_id))
        self.transport.write(STATUS_LINE[problem.status] + b"".join(lines) + b"\r\n" + reply[2])
        self.transport.close()


@asynccontextmanager
async def serve_control(app: ControlPlane, listener: socket.socket) -> AsyncIterator[None]:
    """Answer on a listening socket, in the running loop, within the context; the end closes the socket.

    The end waits for no client: connections that are still open are cut.
    """
    _LOGGER.setLevel(logging.ERROR)  # uvicorn's warnings are about what clients do wrong
    config = uvicorn.Config(app, workers=1, log_config=None, access_log=False, ws="none", proxy_headers=False)
    state = ServerState()
    connections: dict[_Connection, None] = {}
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(connections, config, state), sock=listener, backlog=_MOST_CONNECTIONS
    )
    try:
        yield
    finally:
        server.close()
        while connections:
            oldest = next(iter(connections))
            oldest.transport.abort()
            await oldest.ended
        if state.tasks:  # operations, which end with whoever does them
            await asyncio.wait(state.tasks)

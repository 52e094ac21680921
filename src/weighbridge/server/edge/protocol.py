"""The gate and the fast lane, inside uvicorn's own protocol object.

The gate judges every request before the application hears of it. The fast lane answers requests for compiled routes
right here: no task, no ASGI messages. Those that take long wait in the gate's queue for their turn, or are refused.
Everything else takes uvicorn's ordinary way, with its whole body at hand.

A request whose head is known is not even parsed, but for its body.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import httptools
from typing_extensions import override
from uvicorn import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from weighbridge.adapters.http.deadline import too_late
from weighbridge.adapters.http.fast_route import CompiledRoute, joined
from weighbridge.adapters.http.problems import Problem, RefusedRequest, Reply, overloaded
from weighbridge.adapters.metrics import UNROUTED
from weighbridge.adapters.telemetry import RequestTelemetry
from weighbridge.application.queue import Turn
from weighbridge.server.edge.gate import Gate
from weighbridge.server.edge.head import Head, body_too_large, headers_too_large, judge, url_too_long
from weighbridge.server.edge.lane import END_OF_HEAD, Lane
from weighbridge.server.edge.replies import CLOSE, Due, Replies
from weighbridge.settings import Settings

_LINGER_SECONDS = 2.0
_QUIET_SECONDS = 1.0
_HIGH_WATER_OF_TLS = 16 * 1024
_PARSED_AT_ONCE = 8192
_TCP_INFO = struct.Struct("128xQ")  # of Linux' tcp.h the bytes that were received
# A trailer is no header, whatever it says; but the parser heeds these, and would read no request after this one.
_HEEDED_TRAILERS = (b"connection", b"proxy-connection")


@dataclass(frozen=True, slots=True)
class _BodyCallbacks:
    """What a parser calls that reads only a body."""

    on_body: Callable[[bytes], None]
    on_message_complete: Callable[[], None]


@dataclass(slots=True)
class _Waiting:
    """A request for the fast lane that waits; when it was whole and its deadline are perf_counter's, in seconds."""

    head: Head
    route: CompiledRoute
    body: bytes | bytearray
    came: float
    deadline: float


class GateProtocol(HttpToolsProtocol):
    """One connection, of a subclass that `bound_to` makes."""

    # Of all connections of a process. What each request needs is an instance's, too, where it is found sooner.
    gate: Gate
    lane: Lane
    replies: Replies
    _limits: Settings

    # Of a connection on which nothing has happened. Most have no more than this and what `__init__` gives them.
    _in_message = False
    _crowded = False
    _half_closed = False
    _heard = False
    _backlog = b""
    _running: RequestResponseCycle | None = None
    _refusal: RefusedRequest | None = None
    _discarded: int | None = None
    _turn: Turn | None = None
    _due: Due | None = None
    _due_since = 0.0
    _unread_since: float | None = None
    # Of the request that arrives
    _head: Head | None = None
    _body: bytes | bytearray = b""
    _head_bytes = 0
    _wire_bytes = 0
    _begun = 0
    _taken: Head | None = None

    @classmethod
    def bound_to(
        cls,
        gate: Gate,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> "type[GateProtocol]":
        """The class of the connections that share all this; each is made with no arguments.

        What uvicorn looks up for each is looked up once: that takes as long as to answer a request.
        """
        shared = vars(HttpToolsProtocol(config, server_state, app_state, loop))
        del shared["parser"]
        shared |= {"scheme": "https" if config.is_ssl else "http"}
        lane: Lane = app_state["lane"]
        shared |= {"gate": gate, "lane": lane, "_limits": gate.settings}
        shared |= {"replies": Replies(lane.telemetry, server_state)}
        return type(cls.__name__, (cls,), shared)

    @override
    def __init__(self, unsent: bytes = b"") -> None:
        """A connection; one that owes its client no more than the rest of a reply has that `unsent`."""
        self._unsent = unsent
        self._known_heads = self.lane.known_heads
        self._telemetry: RequestTelemetry = self.lane.telemetry
        # At rest: no request has begun, none is in hand.
        self._at_rest = True
        self._ending = self.gate.draining
        # What waits for the fast lane, in order; when it is the turn of the first one is for the gate's queue to say.
        self._waiting: deque[_Waiting] = deque()
        self.pipeline = deque()
        # Times are perf_counter's, in seconds.
        self._since = self._connected = self._first_byte = perf_counter()

    # Called by the transport

    @override
    def connection_made(self, transport: Any) -> None:
        self.connections.add(self)
        self.gate.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        # Whatever the kernel does not take at once pauses writing: so unread replies are noticed, and counted.
        # Not at once with TLS: the last of the handshake, unsent when this is called, would pause all for ever.
        self.transport.set_write_buffer_limits(high=0 if self.scheme == "http" else _HIGH_WATER_OF_TLS)
        if self._unsent:
            self.transport.write(self._unsent)
            self._close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.gate.connections.discard(self)
        self.gate.vitals.closed += 1
        if self._in_message:
            self._telemetry.abandoned(request_id=self._request_id())
        for request in self._waiting:
            self._telemetry.abandoned(request_id=self._telemetry.request_id(request.head.given_id))
        self._give_up_waiting()
        self.gate.hold(self, 0)
        super().connection_lost(exc)
        # uvicorn tells only the last request in hand that nobody listens any more.
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    @override
    def data_received(self, data: bytes) -> None:
        if self._at_rest:
            end = data.find(END_OF_HEAD) + 4
            head = self._known_heads.get(data[:end])
            if head is not None and len(data) - end == head.length:
                now = perf_counter()
                self._take(head, data[end:], now, now)
                if self._waiting:
                    self._hold()
                return
        if not self._heard:
            self._heard = True
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parse(data)

    @override
    def eof_received(self) -> Any:
        """The client sends no more: stay, by returning True, only to answer what it has sent."""
        self._half_closed = self._in_hand or bool(self._backlog)
        if self._answering and not self._backlog:
            self.cycle.keep_alive = False
        return self._half_closed and self.transport.can_write_eof()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_since = perf_counter()
        self._throttle()
        self._hold()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_since = None
        self._hold()
        if self._waiting and self._turn is None:
            self._go_on()
        else:
            self._catch_up()

    # Called by the gate and the server

    def sweep(self, now: float) -> None:
        """End what has waited too long."""
        waited = now - self._since
        if self._unread_since is not None:
            unread = self.transport.get_write_buffer_size()
            if now - self._unread_since > _allowance(self._limits.write_timeout, unread):
                self.transport.abort()
        elif self._discarded is not None or self.transport.is_closing():  # with TLS, until the client closes, too
            if waited > _LINGER_SECONDS:
                self.transport.abort()
        elif self._at_rest:
            self._sweep_at_rest(waited)
        elif self._in_message:
            self._sweep_arriving(waited)

    def _sweep_at_rest(self, waited: float) -> None:
        if self.gate.closing:
            if not self._hand_back() and waited > _QUIET_SECONDS:  # a client that was just active may be sending
                self._close()
        elif waited > (self._limits.header_timeout if self._is_new() else self._limits.keep_alive_timeout):
            self._close()

    def _is_new(self) -> bool:
        """Whether nothing has come on it yet; what this process has never seen another one has, and handed it on."""
        if self._since != self._connected:
            return False
        if self._heard or self.scheme != "http":
            return True
        sock = self.transport.get_extra_info("socket")
        try:
            information = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            return not any(_TCP_INFO.unpack(information))
        except (OSError, struct.error):  # it is gone, or no TCP
            return True

    def _hand_back(self) -> bool:
        """Let another process go on with the connection, if there is one and nothing is kept of it here."""
        give_back = self.gate.give_back
        if give_back is None or self.scheme != "http" or self.transport.get_write_buffer_size():
            return False
        given = give_back(self.transport.get_extra_info("socket").fileno())
        if given:
            self.transport.abort()  # which ends what this process has of it, and no more
        return given

    def _sweep_arriving(self, waited: float) -> None:
        if self._head is None:
            part, limit = "head", self._limits.header_timeout
        else:
            part, limit = "body", _allowance(self._limits.body_timeout, self._head.length or 0)
        if waited > limit and self._crowded:  # it was we who stopped reading
            self.shed()
        elif waited > limit:
            self._refuse(RefusedRequest(Problem.REQUEST_TIMEOUT, f"The {part} of the request did not arrive in time"))

    def shed(self) -> None:
        """Give up what is buffered: refuse the request, or drop the reply that nobody reads."""
        if self._unread_since is not None:
            self.gate.hold(self, 0)
            self.transport.abort()
            return
        if self._waiting:
            first = self._waiting[0]
            self.url, self.headers, self._since = first.head.target, list(first.head.headers.items()), first.came
            self._give_up_waiting()
        self._telemetry.shed("buffers")
        self._refuse(RefusedRequest(Problem.OVERLOADED, "The server has no room to buffer this; retry later"))

    def pause(self) -> None:
        """Read no more until `resume`."""
        self._crowded = True
        self._throttle()

    def resume(self) -> None:
        """Read on."""
        self._crowded = False
        self._throttle()

    @override
    def shutdown(self) -> None:
        """End the connection with its next reply; one at rest that is handed back need not end."""
        if self.gate.give_back is None or self.scheme != "http":
            self._ending = True
            if self._answering:
                self.cycle.keep_alive = False

    # Called by the parser

    @override
    def on_message_begin(self) -> None:
        self._begun += 1
        self._at_rest = False
        self._in_message = True
        self._since = self._first_byte = perf_counter()
        self._head = None
        self._body = b""
        self._head_bytes = self._wire_bytes = 0
        self.url = b""
        self.headers = []
        if self.transport.is_closing():
            raise RefusedRequest(Problem.BAD_REQUEST, "Another request follows one that ends the connection")

    @override
    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self._limits.max_url_bytes:
            raise url_too_long(self._limits)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + len(": \r\n")
        if self._head is None:
            self.headers.append((name.lower(), value))
        elif name.lower() in _HEEDED_TRAILERS:
            raise RefusedRequest(Problem.BAD_REQUEST, "Trailers may not control the connection")
        if self._head_bytes > self._limits.max_header_bytes or len(self.headers) > self._limits.max_header_fields:
            raise headers_too_large(self._limits)

    @override
    def on_headers_complete(self) -> None:
        self._head = head = judge(self.parser, self.url, self.headers, self.lane.routes, self._limits)
        self._since = perf_counter()
        self._wire_bytes = 0
        self._invite(head)

    @override
    def on_body(self, body: bytes) -> None:
        if not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body
        if len(self._body) > self._limits.max_body_bytes:
            raise body_too_large(self._limits)

    @override
    def on_message_complete(self) -> None:
        head, body = self._head, self._body
        assert head is not None, "the parser completes no message without its head"
        if head.length != 0 and self.parser.should_upgrade() and head.method != b"CONNECT":
            return  # only the head is complete, see _pass_over_upgrade
        self._head, self._body, self._in_message = None, b"", False
        if head.route is not None and not self._answering:
            self._taken = head
            self._take(head, body, self._first_byte, perf_counter())
        elif len(self.tasks) < self._limits.max_in_flight:
            self._hand_over(head, body)
        else:
            self._telemetry.shed("in_flight")
            raise RefusedRequest(Problem.OVERLOADED, "The server has too many requests in hand; retry later")
        if not self._waiting:  # otherwise once all that has arrived is parsed: to hold more may be to be shed
            self._hold()

    # The gate

    def _parse(self, data: bytes) -> None:
        if self._discarded is not None:
            self._discarded += len(data)
            if self._discarded > self._limits.max_body_bytes:
                self.transport.abort()
            return
        if self._refusal is not None:  # it waits for the replies before it; nothing after it counts
            return
        if self._backlog:  # what was on its way when reading was paused, or came since uvicorn has resumed it
            self._backlog += data
            self._hold()
            self._throttle()
            return
        alone = self._at_rest
        self._begun = 0
        self._taken = None
        try:
            self._feed(data)
        except httptools.HttpParserError as exc:
            self._refuse(self._refusal_for(exc))
        except RefusedRequest as refusal:
            self._refuse(refusal)
        else:
            if self._in_message or self._backlog or self._waiting:
                self._hold()
                self._throttle()
            if alone and self._taken is not None and self._begun == 1:
                self.lane.remember(data, self._taken)
            self._taken = None  # an idle connection keeps no model from being freed

    def _hold(self) -> None:
        """Account for what is buffered: of requests that arrive or wait, and of the replies that are not read."""
        arrived = self._head_bytes + self._wire_bytes if self._head is None else len(self._body)
        waiting = sum(len(request.body) for request in self._waiting)
        unread = 0 if self._unread_since is None else self.transport.get_write_buffer_size()
        self.gate.hold(self, (arrived if self._in_message else 0) + waiting + len(self._backlog) + unread)

    def _feed(self, data: bytes) -> None:
        # In small pieces: what the parser keeps of an unfinished line is not seen before a piece has been parsed.
        for start in range(0, len(data), _PARSED_AT_ONCE):
            ahead = len(self.pipeline) + len(self._waiting)
            if ahead >= self._limits.max_pipelined or self.flow.write_paused:
                self._backlog = data[start:]
                self._at_rest = False
                return
            continued = self._in_message
            piece = memoryview(data)[start : start + _PARSED_AT_ONCE]
            upgraded = None
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                upgraded = start + upgrade.args[0]
            if upgraded is not None:
                self._pass_over_upgrade(data[upgraded:])
                return
            if continued:
                self._wire_bytes += len(piece)
            if self._in_message:
                self._check_arriving()

    def _catch_up(self) -> None:
        """Parse what had to wait, now that there may be room for it."""
        backlog, self._backlog = self._backlog, b""
        if backlog and not self.transport.is_closing():
            self._at_rest = not (self._in_message or self._in_hand or self.transport.is_closing())
            self._parse(backlog)
            if self._half_closed and not self._in_hand and not self._backlog:
                self._close()
        self._throttle()

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Treat a request that asks for another protocol like any other; the connection ends with it.

        Its parser takes the `rest`, all that follows the head, for that other protocol's: a new one reads the body.
        """
        head = self._head
        if head is None:  # it had no body, and is answered
            return
        framing = b"Transfer-Encoding: chunked" if head.length is None else b"Content-Length: %d" % head.length
        start = (head.method, self.parser.get_http_version().encode(), framing)
        self.parser = httptools.HttpRequestParser(_BodyCallbacks(self.on_body, self.on_message_complete))
        self.parser.feed_data(b"%b / HTTP/%b\r\nConnection: close\r\n%b\r\n\r\n" % start)
        self._feed(rest)

    def _check_arriving(self) -> None:
        """Raises RefusedRequest for a request that hides its size from the parser's callbacks."""
        if self._head is None:
            if self._wire_bytes > self._limits.max_header_bytes + self._limits.max_url_bytes:
                raise headers_too_large(self._limits)
        elif self._wire_bytes > 2 * self._limits.max_body_bytes + self._limits.max_header_bytes:
            raise body_too_large(self._limits)

    def _invite(self, head: Head) -> None:
        """Tell a client that waits for it to send the body; while another reply is due, that comes first."""
        if head.awaits_continue and not self._in_hand:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refusal_for(self, error: httptools.HttpParserError) -> RefusedRequest:
        raised = error.__context__
        if isinstance(raised, RefusedRequest):
            return raised
        if isinstance(raised, Exception):
            self._telemetry.failed(raised, request_id=self._request_id())
            return RefusedRequest(
                Problem.INTERNAL_ERROR, "The request is not to blame; the service's log has the cause"
            )
        if "HTTP version" in str(error):
            return RefusedRequest(Problem.HTTP_VERSION_NOT_SUPPORTED, "Only HTTP/1.1 and HTTP/1.0 are supported")
        return RefusedRequest(Problem.BAD_REQUEST, "The request is not valid HTTP/1.1 (RFC 9112)")

    def _request_id(self) -> str:
        headers: list[tuple[bytes, bytes]] = self.headers or []
        request_id: str = self._telemetry.request_id(joined(headers).get(b"x-request-id"))
        return request_id

    def _refuse(self, refusal: RefusedRequest) -> None:
        """Reply to what is in hand first, then with the refusal, and end the connection."""
        self._at_rest = self._in_message = False
        self._head, self._body, self._backlog = None, b"", b""
        self._hold()
        if self.transport.is_closing():  # the last reply has been given: whatever follows gets none
            return
        if self._in_hand:
            self._refusal = refusal
            self._throttle()
            return
        request_id = self._request_id()
        reply = refusal.problem.reply(str(refusal), request_id)
        self._telemetry.finished(
            self._telemetry.metrics.route(UNROUTED),
            request_id,
            b"",
            (self.url or b"").partition(b"?")[0],
            reply[0],
            perf_counter() - self._since,
        )
        self.transport.write(self.replies.written(reply, request_id, CLOSE))
        self._linger()

    def _linger(self) -> None:
        """Let the client read the reply before the connection ends: closing with bytes unread would reset it."""
        self._discarded = 0
        self._since = perf_counter()
        self._throttle()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:  # TLS has no half-closed state
            self._close()

    def _close(self) -> None:
        self._at_rest = False
        self._since = perf_counter()
        self.transport.close()

    # The two roads

    def _take(self, head: Head, body: bytes | bytearray, first_byte: float, came: float) -> None:
        """Answer by the fast lane: at once, or when its turn comes a request that takes long."""
        route = head.route
        assert route is not None
        deadline = first_byte + head.time_limit
        if came <= deadline and not self._waiting:
            if route.is_quick:
                done = self._answer(head, route, body, came, deadline)
                if not isinstance(done, Due):
                    route.service_time.observe(done - came)
                return
            if not self.lane.queue.admits(deadline - came):  # most, when there are too many
                self._turn_away(head, route, came)
                return
        self._waiting.append(_Waiting(head, route, body, came, deadline))
        if self._turn is None:
            self._advance()

    def _advance(self) -> None:
        """Answer or refuse what waits, up to a request that has to wait in the gate's queue."""
        queue = self.lane.queue
        while self._waiting and not (self._due or self.flow.write_paused or self.transport.is_closing()):
            request = self._waiting[0]
            head, route = request.head, request.route
            left = request.deadline - perf_counter()
            if not route.is_quick and queue.admits(left):
                self._turn = queue.join(route.service_time, self._serve, self.loop)
                break
            self._waiting.popleft()
            if left < 0:
                self._expire(request)
            elif route.is_quick:
                self._answer(head, route, request.body, request.came, request.deadline)
            else:
                self._turn_away(head, route, request.came)
        self._at_rest = not (self._in_message or self._in_hand or self.transport.is_closing())

    def _serve(self) -> "asyncio.Task[Reply] | None":
        """Called by the queue when it is the turn of the first request that waits; what it is served by if later."""
        self._turn = None
        if self.transport.is_closing():
            return None
        request, now = self._waiting[0], perf_counter()
        route = request.route
        assert route.waits is not None, "what asks no model is answered as it comes"
        route.waits.observe(now - request.came)
        if now <= request.deadline:
            self._waiting.popleft()
            done = self._answer(request.head, route, request.body, request.came, request.deadline)
            if isinstance(done, Due):
                return done.reply
            route.service_time.observe(done - now)
        self._go_on()
        return None

    def _go_on(self) -> None:
        """Deal with what is behind a request that waited."""
        self._advance()
        self._hold()
        if self._waiting:
            self._throttle()
        else:
            self.on_response_complete()

    def _give_up_waiting(self) -> None:
        """Forget what waits, and what the application was to do after it."""
        if self._turn is not None:
            self.lane.queue.leave(self._turn)
            self._turn = None
        due, self._due = self._due, None
        if due is not None:
            due.reply.cancel()
        if self._waiting:
            self._waiting.clear()
            while self.pipeline:
                self.pipeline.pop()[0].response_complete = True  # it has not begun, and never will

    def _answer(
        self, head: Head, route: CompiledRoute, body: bytes | bytearray, came: float, deadline: float
    ) -> float | Due:
        """Reply by the fast lane to what was whole at `came`; when that was ready. Times are perf_counter's.

        Where the reply comes later, what is due: until then the request is the first of those that wait.
        """
        answered = self.replies.answer(head, route, body, came, deadline)
        if not isinstance(answered, Due):
            reply, request_id, now = answered
            self._give(reply, head, request_id, now)
            return now
        self._at_rest = False
        self._due, self._due_since = answered, perf_counter()
        self._waiting.appendleft(_Waiting(head, route, body, came, deadline))
        answered.reply.add_done_callback(self._arrived)
        return answered

    def _arrived(self, arrived: "asyncio.Task[Reply]") -> None:
        """Give a reply that was due, unless nobody waits for it any more."""
        due = self._due
        if due is None or arrived is not due.reply or arrived.cancelled():  # as when the event loop ends
            return
        self._due = None
        request = self._waiting.popleft()
        head, route = request.head, request.route
        reply, request_id, now = self.replies.finish(
            head, route, due.request_id, arrived.result(), request.came, request.deadline
        )
        self._give(reply, head, request_id, now)
        if not route.is_remote:
            route.service_time.observe(now - self._due_since)
        self._go_on()

    def _expire(self, request: _Waiting) -> None:
        """Refuse a request whose deadline passed before its turn came."""
        head = request.head
        self._telemetry.expired()
        request_id = self._telemetry.request_id(head.given_id)
        reply = too_late(request_id)
        now = perf_counter()
        spent = now - request.came
        self._telemetry.finished(request.route.metrics, request_id, head.method, head.target, reply[0], spent)
        self._give(reply, head, request_id, now)

    def _turn_away(self, head: Head, route: CompiledRoute, came: float) -> None:
        """Refuse a request that would wait too long; its connection goes on."""
        request_id = self._telemetry.request_id(head.given_id)
        reply = overloaded(request_id)
        now = perf_counter()
        self._telemetry.shed("queue")
        self._telemetry.finished(route.metrics, request_id, head.method, head.target, reply[0], now - came)
        self._give(reply, head, request_id, now)

    def _give(self, reply: Reply, head: Head, request_id: str, now: float) -> None:
        """Write a reply of the fast lane."""
        keep_alive = head.keep_alive and not (self._ending and not self._in_hand)
        self.transport.write(self.replies.written(reply, request_id, "" if keep_alive else CLOSE))
        self._go_on_or_close(now, keep_alive=keep_alive)

    def _go_on_or_close(self, now: float, *, keep_alive: bool) -> None:
        if keep_alive:
            self._since = now
            self._at_rest = True
        else:
            self._give_up_waiting()
            self._close()

    def _hand_over(self, head: Head, body: bytes | bytearray) -> None:
        """Let uvicorn run the application, now that the body is whole. Raises RefusedRequest."""
        url, headers = self.url, self.headers
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            parsed = None
        if parsed is None or not parsed.path:
            raise RefusedRequest(Problem.BAD_REQUEST, "The request target must be a path")
        if self.client is None:
            self.server, self.client = get_local_addr(self.transport), get_remote_addr(self.transport)
        super().on_message_begin()
        self.scope["state"]["first_byte"] = self._first_byte
        self.url = url
        self.headers += headers
        super().on_headers_complete()
        cycle = self.cycle
        cycle.keep_alive = head.keep_alive and not self._ending
        cycle.body += body
        cycle.more_body = False
        cycle.message_event.set()
        self._throttle()

    @property
    def _answering(self) -> bool:
        """Whether the application still works on a request of this connection."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _in_hand(self) -> bool:
        """Whether a whole request of this connection is still to be answered, by either road."""
        return bool(self._waiting) or self._answering

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._waiting:  # for the fast lane, whose replies come first
            self.pipeline.appendleft((cycle, app))
        else:
            self._running = cycle
            super()._start_asgi_task(cycle, app)

    @override
    def on_response_complete(self) -> None:
        """Called when the oldest request in hand is answered: by uvicorn, or when no other waits for the fast lane."""
        if self.transport.is_closing():
            self._since = perf_counter()
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._refuse(self._refusal)
        elif self._ending or (self._half_closed and not self._backlog):
            self._close()
        elif not self._in_message:
            self._since = perf_counter()
            self._at_rest = True
        elif self._head is not None:
            self._invite(self._head)
        self._catch_up()

    def _throttle(self) -> None:
        """Read on only when what comes can be dealt with."""
        if self._discarded is None and (
            self._crowded
            or self.flow.write_paused
            or self.pipeline
            or len(self._waiting) > 1
            or self._backlog
            or self._refusal is not None
        ):
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()


def _allowance(base: float, size: int) -> float:
    """Seconds that moving `size` bytes may take: `base`, and one more for each 64 KiB."""
    return base + size / 65536

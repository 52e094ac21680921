"""One connection: its life, from the first call of its transport to the last."""

import asyncio
from time import perf_counter
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.flow_control import FlowControl

from weighbridge.adapters.http.problems import Problem, RefusedRequest
from weighbridge.server.edge.conversation import Conversation
from weighbridge.server.edge.gate import allowance
from weighbridge.server.edge.head import Refusal
from weighbridge.server.edge.lane import END_OF_HEAD
from weighbridge.server.edge.reader import Reader
from weighbridge.server.edge.shared import Shared

_LINGER_SECONDS = 2.0
_QUIET_SECONDS = 1.0
_HIGH_WATER_OF_TLS = 16 * 1024


class Connection(asyncio.Protocol):
    """A client's connection: a reader makes requests of its bytes, and a conversation answers them.

    A request whose head is known needs no reader. A connection that another process has handed on is `kept` if it has
    had a request there. One that owes its client only the rest of a reply has that `unsent`. Times are perf_counter's,
    in seconds.
    """

    _transport: asyncio.Transport
    _flow: FlowControl
    _conversation: Conversation
    _reader: Reader | None = None  # made when it is first needed, for most connections never need one
    _at_rest = True
    _crowded = False
    _half_closed = False
    _unread_since: float | None = None
    _ended_at: float | None = None
    _discarded = 0

    def __init__(self, shared: Shared, unsent: bytes = b"", *, kept: bool = False) -> None:
        self._shared = shared
        self._known_heads = shared.lane.known_heads
        self._unsent = unsent
        self._kept = kept
        self._made_at = perf_counter()

    # Called by the transport

    @override
    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._flow = FlowControl(transport)
        self._conversation = Conversation(self._shared, transport, self._flow, self)
        self._shared.road.connections.add(self)
        self._shared.gate.connections.add(self)
        # Whatever the kernel does not take at once pauses writing: so unread replies are noticed, and counted.
        # Not at once with TLS: the last of the handshake, unsent when this is called, would pause all for ever.
        transport.set_write_buffer_limits(high=_HIGH_WATER_OF_TLS if self._is_tls else 0)
        if self._unsent:
            transport.write(self._unsent)
            self.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.road.connections.discard(self)
        self._shared.gate.connections.discard(self)
        self._shared.gate.vitals.closed += 1
        if self._reader is not None and self._reader.part is not None:
            telemetry = self._shared.lane.telemetry
            telemetry.abandoned(request_id=telemetry.request_id(self._reader.given_id))
        self._drop_reader()
        self._conversation.abandon()
        self._shared.gate.hold(self, 0)
        self._flow.resume_writing()  # so that an application which waits for that goes on, and ends

    @override
    def data_received(self, data: bytes) -> None:
        if self._at_rest:
            end = data.find(END_OF_HEAD) + 4
            head = self._known_heads.get(data[:end])
            if head is not None and len(data) - end == head.length:
                now = perf_counter()
                if not self._conversation.take(head, data[end:], now, now):
                    self._settle()
                return
        if self._ended_at is not None:
            self._discarded += len(data)
            if self._discarded > self._shared.gate.settings.max_body_bytes:
                self._transport.abort()
        elif not self._conversation.is_over:  # otherwise a refusal waits for the replies before it
            self._read(data)

    @override
    def eof_received(self) -> bool:
        """The client sends no more: stay, by returning True, only to answer what it has sent."""
        self._half_closed = self._has_backlog
        if not self._half_closed:
            self._conversation.end()
        return (self._half_closed or bool(self._conversation.requests)) and self._transport.can_write_eof()

    @override
    def pause_writing(self) -> None:
        self._flow.pause_writing()
        self._unread_since = perf_counter()
        self._settle()

    @override
    def resume_writing(self) -> None:
        self._flow.resume_writing()
        self._unread_since = None
        self._conversation.go_on()

    # Called by the gate and the server

    def sweep(self, now: float) -> None:
        """End what has waited too long."""
        if self._unread_since is not None:
            unread = self._transport.get_write_buffer_size()
            if now - self._unread_since > allowance(self._shared.gate.settings.write_timeout, unread):
                self._transport.abort()
        elif self._ended_at is not None:  # with TLS, until the client closes, too
            if now - self._ended_at > _LINGER_SECONDS:
                self._transport.abort()
        elif self._transport.is_closing():  # as when the application failed halfway through its reply
            self.close()
        elif self._at_rest:
            self._sweep_at_rest(now)
        elif self._reader is not None and self._reader.is_late(now):
            self._time_out(self._reader)

    def _sweep_at_rest(self, now: float) -> None:
        settings, rests_since = self._shared.gate.settings, self._conversation.answered_at or self._made_at
        if self._hand_back():
            return
        if self._shared.gate.closing:
            if now - rests_since > _QUIET_SECONDS:  # one that was just active may be sending
                self.close()
        elif now - rests_since > (settings.keep_alive_timeout if self._is_kept else settings.header_timeout):
            self.close()

    def _hand_back(self) -> bool:
        """Let another process go on with the connection, if there is one and nothing is kept of it here."""
        give_back = self._shared.gate.give_back
        if give_back is None or self._is_tls or not self._at_rest or self._transport.is_closing():
            return False
        if self._transport.get_write_buffer_size():
            return False
        given = give_back(self._transport.get_extra_info("socket").fileno(), kept=self._is_kept)
        if given:
            self._transport.abort()  # which ends what this process has of it, and no more
        return given

    def _time_out(self, reader: Reader) -> None:
        if self._crowded:  # it was we who stopped reading
            self.shed()
        else:
            late = f"The {reader.part} of the request did not arrive in time"
            self._refuse(reader.refusal(RefusedRequest(Problem.REQUEST_TIMEOUT, late)))

    def shed(self) -> None:
        """Give up what is buffered: refuse the request, or drop the reply that nobody reads."""
        if self._unread_since is not None:
            self._shared.gate.hold(self, 0)
            self._transport.abort()
            return
        self._shared.lane.telemetry.shed("buffers")
        reason = RefusedRequest(Problem.OVERLOADED, "The server has no room to buffer this; retry later")
        waiting = self._conversation.give_up()
        self._refuse(waiting[0].refusal(reason) if waiting else self._open_reader().refusal(reason))

    def pause(self) -> None:
        """Read no more until `resume`."""
        self._crowded = True
        self._throttle()

    def resume(self) -> None:
        """Read on."""
        self._crowded = False
        self._throttle()

    def shutdown(self) -> None:
        """End the connection with its next reply; one at rest that is handed back need not end."""
        if self._shared.gate.give_back is None or self._is_tls:
            self._conversation.end()

    # Called by the conversation

    def proceed(self) -> None:
        """Read the backlog, now that there may be room for it."""
        if not self._has_backlog:
            self._settle()
            return
        self._read(b"")
        if self._half_closed and not self._has_backlog:
            self._conversation.end()
            if not self._conversation.requests:
                self.close()

    def close(self) -> None:
        """End once all that was written is sent."""
        self._end()
        self._transport.close()

    def linger(self) -> None:
        """The same, but let the client read it first: closing with bytes unread would reset the connection."""
        self._end()
        self._throttle()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS has no half-closed state
            self._transport.close()

    def _end(self) -> None:
        self._conversation.finish()
        self._drop_reader()
        self._at_rest = False
        self._ended_at = perf_counter()

    # Inside

    @property
    def _is_kept(self) -> bool:
        """Whether it has had a request."""
        return self._kept or self._conversation.answered_at is not None

    @property
    def _is_tls(self) -> bool:
        return self._shared.road.scheme == "https"

    @property
    def _has_backlog(self) -> bool:
        return self._reader is not None and bool(self._reader.backlog)

    def _open_reader(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(self._shared.lane, self._shared.gate.settings, self._conversation)
        return self._reader

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _read(self, data: bytes) -> None:
        reader = self._open_reader()
        try:
            reader.read(data)
        except RefusedRequest as reason:
            self._refuse(reader.refusal(reason))
        else:
            self._settle()

    def _refuse(self, refusal: Refusal) -> None:
        """Reply to what is in hand first, then with the refusal, and end the connection."""
        self._drop_reader()
        if not self._conversation.is_over and not self._transport.is_closing():
            self._conversation.refuse(refusal)
        self._settle()

    def _settle(self) -> None:
        """Draw the consequences of what is in hand and buffered by now."""
        reader, conversation = self._reader, self._conversation
        arrives = reader is not None and (reader.part is not None or bool(reader.backlog))
        self._at_rest = not (arrives or conversation.requests or conversation.is_over)
        held = conversation.held
        if reader is not None:
            held += reader.held
            if reader.awaits_continue and not conversation.requests:
                reader.awaits_continue = False
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._unread_since is not None:
            held += self._transport.get_write_buffer_size()
        self._shared.gate.hold(self, held)
        self._throttle()
        if self._at_rest and self._shared.gate.give_back is not None:
            self._shared.road.loop.call_soon(self._hand_back)  # by then the reply is sent, and no more is read

    def _throttle(self) -> None:
        """Read on, unless what comes would have to wait."""
        conversation = self._conversation
        if self._ended_at is None and (
            self._crowded
            or self._flow.write_paused
            or len(conversation.requests) > 1
            or conversation.is_over
            or self._has_backlog
        ):
            self._flow.pause_reading()
        else:
            self._flow.resume_reading()

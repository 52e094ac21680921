"""From bytes to requests: a parser in C, and the limits that hold while a request arrives."""

from time import perf_counter
from typing import Literal

import httptools

from weighbridge.adapters.http.fast_route import joined
from weighbridge.adapters.http.problems import Problem, RefusedRequest
from weighbridge.server.edge.conversation import Conversation
from weighbridge.server.edge.gate import allowance
from weighbridge.server.edge.head import Head, Refusal, body_too_large, headers_too_large, judge, url_too_long
from weighbridge.server.edge.lane import Lane
from weighbridge.settings import Settings

_PARSED_AT_ONCE = 8192
# A trailer is no header, whatever it says; but the parser heeds these, and would read no request after this one.
_HEEDED_TRAILERS = (b"connection", b"proxy-connection")


class Reader:
    """Reads the requests of one connection, and gives each to its conversation once it is whole.

    `part` is the part of a request that is arriving, and `since` when it began, in seconds of perf_counter;
    `awaits_continue` says whether its client waits to be told to send the body. `backlog` has come, but waits unread
    for room in the conversation.
    """

    _head: Head  # of the request whose body is arriving

    def __init__(self, lane: Lane, limits: Settings, conversation: Conversation) -> None:
        self.part: Literal["head", "body"] | None = None
        self.since = self._first_byte = perf_counter()
        self._target = b""
        self.awaits_continue = False
        self.backlog = b""
        self._lane = lane
        self._limits = limits
        self._conversation = conversation
        self._lines: list[tuple[bytes, bytes]] = []
        self._body: bytes | bytearray = b""
        self._head_bytes = self._wire_bytes = 0
        self._whole: Head | None = None
        self._renew_parser()

    def read(self, data: bytes) -> None:
        """Read what has come, as far as there is room for its requests. Raises RefusedRequest."""
        if self.backlog:
            data, self.backlog = self.backlog + data, b""
        self._whole = None
        begins = self.part is None
        start = 0
        # In small pieces: what the parser keeps of an unfinished line is not seen before a piece has been parsed.
        while start < len(data):
            if not self._conversation.has_room:
                self.backlog = data[start:]
                return
            start += self._parse(memoryview(data)[start : start + _PARSED_AT_ONCE])
        head, self._whole = self._whole, None  # an idle connection keeps no model from being freed
        if begins and head is not None and head.route is not None:
            self._lane.remember(data, head)

    @property
    def held(self) -> int:
        """How many bytes it holds."""
        arrived = 0
        if self.part is not None:
            arrived = self._head_bytes + self._wire_bytes if self.part == "head" else len(self._body)
        return arrived + len(self.backlog)

    @property
    def given_id(self) -> bytes | None:
        """The id that the client gave the latest request."""
        return joined(self._lines).get(b"x-request-id")

    def refusal(self, reason: RefusedRequest) -> Refusal:
        """A refusal of the latest request."""
        return Refusal(reason, self.given_id, self._target, self.since)

    def is_late(self, now: float) -> bool:
        """Whether the part that arrives should be whole by now."""
        if self.part == "body":
            return now - self.since > allowance(self._limits.body_timeout, self._head.length or 0)
        return self.part == "head" and now - self.since > self._limits.header_timeout

    def close(self) -> None:
        """Let the parser go, which holds this reader."""
        del self._parser

    # Called by the parser

    def on_message_begin(self) -> None:
        """Begin a request, unless its head is read again. Raises RefusedRequest."""
        if self._conversation.is_over:
            raise RefusedRequest(Problem.BAD_REQUEST, "Another request follows one that ends the connection")
        if self.part is None:
            self.part = "head"
            self.since = self._first_byte = perf_counter()
        self._target = self._body = b""
        self._lines = []
        self._head_bytes = self._wire_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the target. Raises RefusedRequest."""
        self._target += url
        if len(self._target) > self._limits.max_url_bytes:
            raise url_too_long(self._limits)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of the head, or of the trailers. Raises RefusedRequest."""
        self._head_bytes += len(name) + len(value) + len(": \r\n")
        if self.part == "head":
            self._lines.append((name.lower(), value))
        elif name.lower() in _HEEDED_TRAILERS:
            raise RefusedRequest(Problem.BAD_REQUEST, "Trailers may not control the connection")
        if self._head_bytes > self._limits.max_header_bytes or len(self._lines) > self._limits.max_header_fields:
            raise headers_too_large(self._limits)

    def on_headers_complete(self) -> None:
        """Judge the head. Raises RefusedRequest."""
        if self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT":
            return
        self._head = head = judge(self._parser, self._target, self._lines, self._lane.routes, self._limits)
        self.part = "body"
        self.since = perf_counter()
        self.awaits_continue = head.awaits_continue
        self._wire_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Take a part of the body. Raises RefusedRequest."""
        if not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body
        if len(self._body) > self._limits.max_body_bytes:
            raise body_too_large(self._limits)

    def on_message_complete(self) -> None:
        """Hand on a request that is whole. Raises RefusedRequest."""
        if self.part == "head":  # which offers another protocol, and is read again
            return
        self._whole, body = self._head, self._body
        del self._head
        self.part, self._body, self.awaits_continue = None, b"", False
        self._conversation.take(self._whole, body, self._first_byte, perf_counter())

    # Around the parser

    def _parse(self, piece: memoryview) -> int:
        """Parse a piece; how many of its bytes were parsed. Raises RefusedRequest."""
        is_continued = self.part is not None
        try:
            parsed = self._feed(piece)
        except httptools.HttpParserError as error:
            raise self._refusal_for(error) from error
        if is_continued:
            self._wire_bytes += parsed
        if self.part is not None:
            self._check_size()
        return parsed

    def _feed(self, piece: memoryview) -> int:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            parsed: int = offer.args[0]
        else:
            return len(piece)
        self._decline()  # not within `except`: what it raises would lose its own context
        return parsed

    def _decline(self) -> None:
        """Read a head again, without the offer to go on in another protocol.

        Its parser takes all that follows the head for that protocol's.
        """
        start = b"%b %b HTTP/%b\r\n" % (
            self._parser.get_method(),
            self._target,
            self._parser.get_http_version().encode(),
        )
        lines = (b"%b: %b\r\n" % line for line in self._lines if line[0] != b"upgrade")
        self._renew_parser()
        self._parser.feed_data(b"%b%b\r\n" % (start, b"".join(lines)))

    def _renew_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _check_size(self) -> None:
        """Raises RefusedRequest for a request that hides its size from the parser's callbacks."""
        limits = self._limits
        if self.part == "head":
            if self._wire_bytes > limits.max_header_bytes + limits.max_url_bytes:
                raise headers_too_large(limits)
        elif self._wire_bytes > 2 * limits.max_body_bytes + limits.max_header_bytes:
            raise body_too_large(limits)

    def _refusal_for(self, error: httptools.HttpParserError) -> RefusedRequest:
        raised = error.__context__
        if isinstance(raised, RefusedRequest):
            return raised
        if isinstance(raised, Exception):
            telemetry = self._lane.telemetry
            telemetry.failed(raised, request_id=telemetry.request_id(self.given_id))
            return RefusedRequest(
                Problem.INTERNAL_ERROR, "The request is not to blame; the service's log has the cause"
            )
        if "HTTP version" in str(error):
            return RefusedRequest(Problem.HTTP_VERSION_NOT_SUPPORTED, "Only HTTP/1.1 and HTTP/1.0 are supported")
        return RefusedRequest(Problem.BAD_REQUEST, "The request is not valid HTTP/1.1 (RFC 9112)")

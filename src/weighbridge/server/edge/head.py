"""A request, and its head, judged: RFC 9110 and 9112, stricter where they leave room."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import httptools

from weighbridge.adapters.http import deadline
from weighbridge.adapters.http.fast_route import CompiledRoute, joined
from weighbridge.adapters.http.problems import Problem, RefusedRequest
from weighbridge.settings import Settings

_HOST = re.compile(rb"((\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(:[0-9]*)?)?")  # RFC 9110, 7.2: may be empty
_MOST_DIGITS = 20


LaneRoutes = dict[tuple[bytes, bytes], CompiledRoute]
"""Compiled routes by method and request target."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request that has passed the gate.

    `lines` are the headers as they came, their names in lower case; in `headers` those of one name are joined. `length`
    is None for a chunked body; `time_limit` is in seconds from the first byte.
    """

    method: bytes
    target: bytes
    version: str
    lines: list[tuple[bytes, bytes]]
    headers: dict[bytes, bytes]
    given_id: bytes | None
    length: int | None
    awaits_continue: bool
    keep_alive: bool
    time_limit: float
    route: CompiledRoute | None


class Refusal(NamedTuple):
    """Why a request is refused that began at `since`, in seconds of perf_counter; its connection ends with that."""

    reason: RefusedRequest
    given_id: bytes | None
    target: bytes
    since: float


@dataclass(slots=True)
class Request:
    """A whole request; when its first byte came and its last, in seconds of perf_counter."""

    head: Head
    body: bytes | bytearray
    first_byte: float
    came: float

    @property
    def deadline(self) -> float:
        """When it is too late to reply, in seconds of perf_counter."""
        return self.first_byte + self.head.time_limit

    def refusal(self, reason: RefusedRequest) -> Refusal:
        """A refusal of it."""
        return Refusal(reason, self.head.given_id, self.head.target, self.came)


def judge(
    parser: httptools.HttpRequestParser,
    target: bytes,
    lines: list[tuple[bytes, bytes]],
    routes: LaneRoutes,
    limits: Settings,
) -> Head:
    """The head whose header `lines` a parser has just completed. Raises RefusedRequest."""
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        problem = Problem.BAD_REQUEST if version == "0.9" else Problem.HTTP_VERSION_NOT_SUPPORTED
        raise RefusedRequest(problem, "Only HTTP/1.1 and HTTP/1.0 are supported")
    headers = joined(lines)
    host = headers.get(b"host")
    if not (version == "1.0" if host is None else _HOST.fullmatch(host)):
        raise RefusedRequest(Problem.BAD_REQUEST, "Send one Host header, with a host and an optional port")
    method = parser.get_method()
    if method == b"CONNECT":
        raise RefusedRequest(Problem.METHOD_NOT_IMPLEMENTED, "This server is not a proxy; send the request itself")
    coding = headers.get(b"transfer-encoding")
    if coding is not None and (version == "1.0" or coding.lower() != b"chunked" or b"content-length" in headers):
        detail = "Send either Content-Length or, in HTTP/1.1, Transfer-Encoding: chunked"
        raise RefusedRequest(Problem.BAD_REQUEST, detail)
    if headers.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise RefusedRequest(Problem.EXPECTATION_FAILED, "The only supported value of Expect is 100-continue")
    announced = headers.get(b"content-length", b"0")
    if len(announced) > _MOST_DIGITS:  # which may all be zeros, but Python reads no more than some thousand
        raise RefusedRequest(Problem.BAD_REQUEST, f"Content-Length may have at most {_MOST_DIGITS} digits")
    length = int(announced) if coding is None else None
    if length is not None and length > limits.max_body_bytes:
        raise body_too_large(limits)
    route = routes.get((method, target))
    if route is None and not _names_a_path(target):
        raise RefusedRequest(Problem.BAD_REQUEST, "The request target must be a path")
    return Head(
        method=method,
        target=target,
        version=version,
        lines=lines,
        headers=headers,
        given_id=headers.get(b"x-request-id"),
        length=length,
        awaits_continue=version == "1.1" and b"expect" in headers and length != 0,
        keep_alive=version == "1.1" and parser.should_keep_alive(),
        time_limit=deadline.time_limit(headers.get(deadline.HEADER), limits.deadline_ms),
        route=route,
    )


def _names_a_path(target: bytes) -> bool:
    try:
        return bool(httptools.parse_url(target).path)
    except httptools.HttpParserInvalidURLError:
        return False


def url_too_long(limits: Settings) -> RefusedRequest:
    """The refusal of a request target beyond the limit."""
    return RefusedRequest(Problem.URI_TOO_LONG, f"The request target may have at most {limits.max_url_bytes} bytes")


def headers_too_large(limits: Settings) -> RefusedRequest:
    """The refusal of headers beyond the limits."""
    return RefusedRequest(
        Problem.HEADERS_TOO_LARGE,
        f"A request may have at most {limits.max_header_fields} headers, of {limits.max_header_bytes} bytes in total",
    )


def body_too_large(limits: Settings) -> RefusedRequest:
    """The refusal of a body beyond the limit."""
    return RefusedRequest(Problem.BODY_TOO_LARGE, f"The body may have at most {limits.max_body_bytes} bytes")

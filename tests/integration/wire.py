"""A client that sends what it is told, byte for byte: no HTTP library can be made to send most of what is sent here."""

import json
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

from tests.contract import GOOD
from tests.integration.service import Service

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [A-Z][A-Za-z -]*")
JSON = b"Content-Type: application/json"


@dataclass(frozen=True)
class Reply:
    """One reply, its header lines in the order in which they came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __getitem__(self, name: str) -> str:
        """The value of a header that came exactly once."""
        [value] = self.values(name)
        return value

    def values(self, name: str) -> list[str]:
        """The values of a header."""
        return [value for given, value in self.headers if given == name]

    @property
    def code(self) -> str:
        """The code of the problem that the reply must be, every field of it in order."""
        assert self["content-type"] == "application/problem+json"
        problem: dict[str, Any] = json.loads(self.body)
        errors = problem.pop("errors", [])
        assert problem.keys() == {"type", "title", "status", "detail", "code", "request_id"}
        assert problem["status"] == self.status
        assert problem["request_id"] == self["x-request-id"]
        assert all(item.keys() == {"loc", "code", "message"} for item in errors)
        return str(problem["code"])


class Wire:
    """One connection, with what has come over it that nobody has asked for yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = b""

    def send(self, *pieces: bytes) -> None:
        """Send, each piece in a segment of its own as far as the kernel goes along."""
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            self.connection.sendall(piece)

    def send_without_end(self, data: bytes) -> NoReturn:
        """Send the same over and over, until that fails."""
        while True:
            self.send(data)

    def finish(self) -> None:
        """Say that nothing more will be sent."""
        self.connection.shutdown(socket.SHUT_WR)

    def reply(self, method: str = "GET") -> Reply:
        """The next reply, interim ones included, to a request with this method."""
        first, *lines = self._until(b"\r\n\r\n").split(b"\r\n")
        status_line = _STATUS_LINE.fullmatch(first)
        assert status_line, first
        status = int(status_line[1])
        headers = tuple((name, value) for name, _, value in (line.decode().partition(": ") for line in lines))
        bodiless = method == "HEAD" or status in {100, 204}
        length = 0 if bodiless else int(dict(headers)["content-length"])
        return Reply(status, headers, self._exactly(length))

    def rest(self) -> bytes:
        """Everything that comes until the service closes the connection."""
        while self._more():
            pass
        return self._received

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            assert self._more(), f"the connection was closed after {self._received!r}"
        found, _, self._received = self._received.partition(end)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            assert self._more(), f"the connection was closed {size - len(self._received)} bytes early"
        found, self._received = self._received[:size], self._received[size:]
        return found

    def _more(self) -> bool:
        chunk = self.connection.recv(65536)
        self._received += chunk
        return bool(chunk)


@contextmanager
def wire(service: Service) -> Iterator[Wire]:
    """A connection to the service."""
    with service.connect() as connection:
        yield Wire(connection)


def head(method: bytes, target: bytes, *lines: bytes, version: bytes = b"1.1", host: bytes = b"x") -> bytes:
    """The head of a request."""
    return b"\r\n".join((b"%b %b HTTP/%b" % (method, target, version), b"Host: %b" % host, *lines, b"", b""))


def get(target: bytes, *lines: bytes, version: bytes = b"1.1") -> bytes:
    """A GET."""
    return head(b"GET", target, *lines, version=version)


def post(target: bytes, *lines: bytes, body: bytes = GOOD, version: bytes = b"1.1") -> bytes:
    """A POST of JSON whose length is announced."""
    return head(b"POST", target, JSON, *lines, b"Content-Length: %d" % len(body), version=version) + body


def chunked(target: bytes, *lines: bytes, chunks: bytes) -> bytes:
    """A POST of JSON in `chunks`, framing included."""
    return head(b"POST", target, JSON, *lines, b"Transfer-Encoding: chunked") + chunks


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    """The pieces of `data` between the places `at`."""
    return [data[start:end] for start, end in pairwise((0, *at, len(data)))]

"""Clients of the application in this process that speak as clients of the real service do."""

import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
from typing_extensions import override

from tests.integration.wire import Wire
from tests.unit.server.behind_gate import Served

MADE_ID = re.compile(rb"\b[0-9a-f]{12}-[0-9a-f]+\b")
LENGTH_OF_A_PROBLEM = re.compile(rb"\r\ncontent-length: \d+(?=\r\ncontent-type: application/problem\+json\r\n)")
LAST = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Wired(Wire):
    """One connection that needs no network: its pieces arrive as they are sent, once the service reads on."""

    @override
    def __init__(self, served: Served) -> None:
        self._received = b""
        self._loop = served.loop
        self._end = served.connect()

    @override
    def send(self, *pieces: bytes) -> None:
        transport = self._end.transport
        left = deque(pieces)
        while left and not transport.closing:
            assert transport.reading or transport.ended, "expected the service to read on, which it does not"
            self._loop.run_until_complete(self._send(left))
            if left:
                self._end.settle()
        if transport.aborted:
            raise ConnectionResetError

    async def _send(self, left: deque[bytes]) -> None:
        transport = self._end.transport
        while left and transport.reading and not transport.closing:
            self._end.protocol.data_received(left.popleft())

    @override
    def finish(self) -> None:
        if not self._end.protocol.eof_received():
            self._end.transport.close()

    def close(self) -> None:
        """Be gone."""
        self._end.protocol.connection_lost(None)

    @override
    def _more(self) -> bool:
        self._end.settle()
        transport = self._end.transport
        written, transport.written = transport.written, b""
        assert written or transport.ended, "expected more, or the end of the connection, got nothing"
        self._received += written
        return bool(written)


@contextmanager
def wired(served: Served) -> Iterator[Wired]:
    """A connection to the application."""
    connection = Wired(served)
    yield connection
    connection.close()


class Wires(httpx2.BaseTransport):
    """What an HTTP client sends its requests over: a connection for each."""

    def __init__(self, served: Served) -> None:
        self._served = served

    @override
    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        lines = (b"%b: %b\r\n" % line for line in request.headers.raw)
        head = b"%b %b HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)
        with wired(self._served) as connection:
            connection.send(head + b"".join(lines) + b"\r\n" + request.read())
            reply = connection.reply(request.method)
        return httpx2.Response(reply.status, headers=reply.headers, content=reply.body)


@dataclass(frozen=True)
class Pair:
    """The fast lane and the ordinary road."""

    lane: Served
    road: Served

    def check(self, *pieces: bytes, last: bytes = LAST) -> bytes:
        """Send the pieces to both and assert that the same comes back, which is returned.

        The last request ends the connection, unless the pieces do. Left out are ids that the service made and the
        lengths of the bodies that hold them.
        """
        lane, road = (_exchange(served, *pieces, last) for served in (self.lane, self.road))
        assert lane == road
        return lane


def _exchange(served: Served, *pieces: bytes) -> bytes:
    with wired(served) as client:
        client.send(*pieces)
        return LENGTH_OF_A_PROBLEM.sub(b"", MADE_ID.sub(b"(made)", client.rest()))

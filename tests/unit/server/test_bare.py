"""Connections that end with their first request are answered without a transport; others notice nothing of that."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from tests.contract import GOOD
from tests.unit.log import Log
from tests.unit.server.behind_gate import Served, comparable, served
from tests.waiting import DEADLINE
from weighbridge.application.admission import SHORT
from weighbridge.server.worker import DataPlane
from weighbridge.settings import Settings

START = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
HEAD = START + b"Content-Length: %d\r\n\r\n" % len(GOOD)
LAST = HEAD + GOOD
OTHER = HEAD + b'{"features":[1,1,1,1]           }'
WRONG = HEAD + b'{"features":[1,1,1,1,1]         }'
NO_JSON = HEAD + b"x" * len(GOOD)
OLD = b"GET /health HTTP/1.0\r\nHost: x\r\n\r\n"
GOING_ON = LAST.replace(b"Connection: close", b"Connection: keep-alive")
MISSING = b"GET /nothing HTTP/1.0\r\nHost: x\r\n\r\n"
ROWS = b'{"instances":[' + b"[1.1,1.1,1.1,1.1]," * 999 + b"[1,1,1,1]]}"
MANY = START.replace(b"/predict", b"/predict/batch") + b"Content-Length: %d\r\n\r\n" % len(ROWS) + ROWS
_ENOUGH = 1_000_000


class Adopting:
    """A data plane, and the clients of the connections that it is given."""

    def __init__(self, here: Served) -> None:
        self.here = here
        self.plane = DataPlane(FastAPI, Settings(), here.gate, lambda: None)
        vars(self.plane)["_connection"] = here.protocol
        self.plane.config.load()

    def knowing(self, request: bytes) -> "Adopting":
        """The same; requests with this head were answered before."""
        self.here.lane.known_heads.clear()
        self.here.connect().feed(request)
        return self

    def replies(self, near: socket.socket, client: socket.socket) -> bytes:
        """All that comes on a connection, to its end."""

        async def read() -> bytes:
            self.plane.adopt([near.detach()])
            client.setblocking(False)
            client.shutdown(socket.SHUT_WR)
            received = b""
            while data := await self.here.loop.sock_recv(client, _ENOUGH):
                received += data
            return received

        return comparable(self.here.loop.run_until_complete(asyncio.wait_for(read(), DEADLINE)))


@pytest.fixture
def adopting(log: Log) -> Iterator[Adopting]:
    with served(log) as here:
        yield Adopting(here)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, client = socket.socketpair()
    with near, client:
        yield near, client


@pytest.mark.parametrize(
    "request_", [LAST, OTHER, WRONG, NO_JSON, OLD], ids=["good", "other", "wrong", "no JSON", "GET"]
)
def test_a_connection_that_ends_with_its_first_request_is_answered_and_closed_at_once(
    adopting: Adopting, ends: tuple[socket.socket, socket.socket], request_: bytes
) -> None:
    near, client = ends
    expected = adopting.here.connect().feed(request_)
    assert adopting.here.lane.known_heads
    client.sendall(request_)

    adopting.plane.adopt([near.detach()])

    assert comparable(client.recv(_ENOUGH)) == expected
    assert client.recv(1) == b""
    assert adopting.plane.connections == 0


OTHERS = {
    "a head that is not known": (b"", LAST),
    "a head that keeps the connection": (GOING_ON, GOING_ON),
    "nothing": (LAST, b""),
    "a part of the head": (LAST, LAST[:30]),
    "a part of the body": (LAST, LAST[:-3]),
    "something behind the request": (LAST, LAST + b"GET"),
    "two requests": (GOING_ON, GOING_ON + GOING_ON),
    "what is not for the fast lane": (MISSING, MISSING),
}


@pytest.mark.parametrize(("known", "sent"), OTHERS.values(), ids=OTHERS)
def test_any_other_connection_is_served_as_ever(
    adopting: Adopting, ends: tuple[socket.socket, socket.socket], known: bytes, sent: bytes
) -> None:
    near, client = ends
    as_ever = adopting.here.connect()
    expected = as_ever.feed(sent)
    as_ever.protocol.eof_received()
    client.sendall(sent)

    assert adopting.knowing(known).replies(near, client) == expected


def test_a_request_that_takes_long_waits_for_its_turn(
    adopting: Adopting, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, client = ends
    expected = adopting.here.connect().feed(LAST)
    client.sendall(LAST)
    route = adopting.here.lane.routes[b"POST", b"/predict"]
    monkeypatch.setattr(route.service_time, "mean", 10 * SHORT)

    assert adopting.replies(near, client) == expected


@pytest.mark.parametrize("fill", [False, True], ids=["some", "none"])
def test_a_reply_that_the_kernel_does_not_take_at_once_is_sent_to_its_end(
    adopting: Adopting, ends: tuple[socket.socket, socket.socket], *, fill: bool
) -> None:
    near, client = ends
    before = 0
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    near.setblocking(False)
    expected = adopting.here.connect().feed(MANY)
    client.sendall(MANY)
    with contextlib.suppress(BlockingIOError):
        while fill:
            before += near.send(b"x")

    assert adopting.replies(near, client) == b"x" * before + expected


def test_a_client_that_is_gone_before_its_reply_costs_nobody_else(
    adopting: Adopting, ends: tuple[socket.socket, socket.socket]
) -> None:
    near, client = ends
    adopting.knowing(LAST)
    client.sendall(LAST)
    client.close()

    adopting.plane.adopt([near.detach()])

    assert adopting.plane.connections == 0

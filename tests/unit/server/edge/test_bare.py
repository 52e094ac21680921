"""Connections that end with their first request are answered without a transport; others notice nothing of that."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from tests.contract import GOOD
from tests.unit.log import Log
from tests.unit.models import CHURN, FakeClient, constant
from tests.unit.server.behind_gate import Served, comparable, served
from tests.waiting import DEADLINE
from weighbridge.application.admission import SHORT
from weighbridge.server.edge.worker import DataPlane
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
ROWS = b'{"instances":[' + b"[0.1234567,0,0,0]," * 999 + b"[1,1,1,1]]}"
MANY = START.replace(b"/predict", b"/predict/batch") + b"Content-Length: %d\r\n\r\n" % len(ROWS) + ROWS
_ENOUGH = 1_000_000


class Adopting:
    """A data plane, and the clients of the connections that it is given."""

    def __init__(self, here: Served) -> None:
        self.here = here
        self.plane = DataPlane(FastAPI, Settings(), here.gate, lambda: None)
        vars(self.plane)["_shared"] = here.shared
        self.plane.config.load()

    def knowing(self, request: bytes) -> "Adopting":
        """The same; requests with this head were answered before."""
        self.here.lane.known_heads.clear()
        self.here.connect().feed(request)
        return self

    def adopt(self, near: socket.socket) -> None:
        """Give it a connection."""

        async def adopt() -> None:
            self.plane.adopt([near.detach()])

        self.here.loop.run_until_complete(adopt())

    def replies(self, client: socket.socket) -> bytes:
        """All that comes to a client, who says no more, to the end."""

        async def read() -> bytes:
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

    with near.dup():  # as the supervisor may still have it
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
    expected = adopting.here.connect().feed(sent)
    client.sendall(sent)

    adopting.knowing(known).adopt(near)

    assert adopting.replies(client) == expected


def test_a_request_that_takes_long_waits_for_its_turn(
    adopting: Adopting, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, client = ends
    expected = adopting.here.connect().feed(LAST)
    client.sendall(LAST)
    route = adopting.here.lane.routes[b"POST", b"/predict"]
    monkeypatch.setattr(route.service_time, "mean", 10 * SHORT)

    adopting.adopt(near)

    assert adopting.replies(client) == expected


ROW = b'{"age":30,"signup_month":"June"}'


def predict(body: bytes) -> bytes:
    head = START.replace(b"/predict", b"/models/churn/predict") + b"Content-Length: %d\r\n\r\n" % len(body)
    return head + body


def test_a_model_in_another_process_is_asked_once_and_by_who_can_wait(
    log: Log, ends: tuple[socket.socket, socket.socket]
) -> None:
    near, client = ends
    runner = FakeClient()
    with served(log, {"1": runner}) as here:
        connection = here.connect()
        connection.receive(predict(ROW))
        runner.answer(0, 0.5)
        here.look()
        client.sendall(predict(ROW))

        Adopting(here).adopt(near)
        while len(runner.asked) == 1:
            here.look()
        here.look()
        assert len(runner.asked) == 2
        runner.answer(1, 0.5)

        assert Adopting(here).replies(client) == comparable(connection.transport.written)


def test_a_request_that_goes_in_slices_is_answered_by_who_can_wait(
    log: Log, ends: tuple[socket.socket, socket.socket]
) -> None:
    near, client = ends
    request = predict(b"[%b,%b,%b]" % (ROW, ROW, ROW))
    model = constant(CHURN, 0.5)
    with served(log, {"1": model}, slice_rows=1) as here:
        expected = here.connect().feed(request)
        assert len(model.seen) == 3
        client.sendall(request)

        Adopting(here).adopt(near)

        assert Adopting(here).replies(client) == expected
        assert len(model.seen) == 6


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

    with near.dup() as same:
        adopting.adopt(near)

        with pytest.raises(BlockingIOError):  # the request was read, and answered
            same.recv(1)
        assert adopting.plane.connections == 1
        client.settimeout(DEADLINE)
        assert client.recv(1)
    assert adopting.replies(client) == (b"x" * before + expected)[1:]
    assert adopting.plane.connections == 0


def test_a_client_that_is_gone_before_its_reply_costs_nobody_else(
    adopting: Adopting, ends: tuple[socket.socket, socket.socket]
) -> None:
    near, client = ends
    adopting.knowing(LAST)
    client.sendall(LAST)
    client.close()

    adopting.plane.adopt([near.detach()])

    assert adopting.plane.connections == 0


def test_a_connection_that_is_gone_before_it_is_adopted_is_counted_as_closed(adopting: Adopting) -> None:
    with socket.socket() as gone:
        descriptor = gone.fileno()

    async def adopt() -> None:
        adopting.plane.adopt([descriptor])

    adopting.here.loop.run_until_complete(adopt())

    assert (adopting.plane.connections, adopting.here.gate.vitals.closed) == (0, 1)


def test_a_fault_while_one_is_answered_costs_no_other(
    log: Log, adopting: Adopting, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, client = ends
    telemetry = adopting.here.lane.telemetry
    expected = adopting.here.connect().feed(OLD)
    adopting.here.connect().feed(LAST)

    def fail_once(*_: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("a fault")

    monkeypatch.setattr(telemetry, "finished", fail_once)
    others_near, other = socket.socketpair()
    with other:
        client.sendall(LAST)
        other.sendall(OLD)
        adopting.plane.adopt([near.detach(), others_near.detach()])

        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert comparable(other.recv(_ENOUGH)) == expected
    assert adopting.plane.connections == 0
    assert [event["exception"].splitlines()[-1] for event in log.written("request_failed")] == ["RuntimeError: a fault"]

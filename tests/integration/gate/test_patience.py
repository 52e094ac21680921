"""How long the service waits, and for whom: the slow, the silent and the greedy."""

import re
import select
import signal
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.contract import GOOD
from tests.integration.gate.conftest import KEEP_ALIVE, KIB, LARGEST_BODY
from tests.integration.service import Service
from tests.integration.wire import JSON, Wire, chunked, get, head, post, wire
from tests.waiting import until

COMPILED = b"/predict"
ORDINARY = b"/nothing"
STATUS = {COMPILED: 200, ORDINARY: 404}
SCRIPT = b"/docs/assets/swagger-ui-bundle.js"
ANNOUNCED = b"Content-Length: %d" % len(GOOD)


def held(service: Service) -> int:
    """How many connections the service holds, or has yet to accept."""
    port = f":{int(service.url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines() if f"{port} " in line]
    listening = "0A"
    return sum(row[1].endswith(port) and row[3] != listening and row[9] != "0" for row in rows)


def descriptors(service: Service) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


@contextmanager
def wires(service: Service, names: Iterable[str]) -> Iterator[dict[str, Wire]]:
    """A connection for each name: what takes its time takes it together."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(wire(service)) for name in names}


def part_that_took_too_long(connection: Wire) -> str:
    reply = connection.reply()
    assert (reply.status, reply.code) == (408, "request_timeout")
    assert reply["connection"] == "close"
    assert connection.rest() == b""
    part = re.search("The (head|body) of the request did not arrive in time", reply.body.decode())
    assert part
    return part[1]


STOPS = {
    "a head": (post(COMPILED)[:-50], "head"),
    "a head for another path": (post(ORDINARY)[:-50], "head"),
    "a request line": (b"G", "head"),
    "a body": (post(COMPILED)[:-1], "body"),
    "a body for another path": (post(ORDINARY)[:-1], "body"),
    "a body without its first byte": (head(b"POST", COMPILED, JSON, ANNOUNCED), "body"),
    "chunks": (chunked(COMPILED, chunks=b"21\r\n" + GOOD), "body"),
    "chunks for another path": (chunked(ORDINARY, chunks=b"21\r\n" + GOOD), "body"),
    "trailers": (chunked(COMPILED, chunks=b"0\r\nNeedle"), "body"),
}


def test_a_request_that_stops_half_way_is_refused(hasty: Service) -> None:
    with wires(hasty, STOPS) as connections:
        for name, connection in connections.items():
            connection.send(STOPS[name][0])

        took_too_long = {name: part_that_took_too_long(connection) for name, connection in connections.items()}
        assert took_too_long == {name: part for name, (_, part) in STOPS.items()}


@pytest.mark.parametrize("before", [COMPILED, ORDINARY], ids=["compiled", "other"])
def test_a_request_that_stops_half_way_behind_another_is_refused(hasty: Service, before: bytes) -> None:
    with wires(hasty, STOPS) as connections:
        for name, connection in connections.items():
            connection.send(post(before) + STOPS[name][0])
        assert {connection.reply().status for connection in connections.values()} == {STATUS[before]}

        took_too_long = {name: part_that_took_too_long(connection) for name, connection in connections.items()}
        assert took_too_long == {name: part for name, (_, part) in STOPS.items()}


def test_a_body_that_was_invited_and_does_not_come_is_refused(hasty: Service) -> None:
    with wire(hasty) as connection:
        connection.send(head(b"POST", COMPILED, JSON, ANNOUNCED, b"Expect: 100-continue"))
        assert connection.reply().status == 100

        assert part_that_took_too_long(connection) == "body"


TRICKLES = {
    "a head": (b"GET /health HTTP/1.1\r\nNeedle: ", b"n", "head"),
    "headers": (b"GET /health HTTP/1.1\r\n", b"N:n\r\n", "head"),
    "a body": (head(b"POST", COMPILED, JSON, b"Content-Length: 1000"), b" ", "body"),
    "a body for another path": (head(b"POST", ORDINARY, JSON, b"Content-Length: 1000"), b" ", "body"),
    "chunks": (chunked(COMPILED, chunks=b""), b"1\r\n \r\n", "body"),
    "an extension": (chunked(COMPILED, chunks=b"1;"), b"x", "body"),
}


def test_a_request_that_trickles_is_refused(hasty: Service) -> None:
    with wires(hasty, TRICKLES) as connections:
        for name, connection in connections.items():
            connection.send(TRICKLES[name][0])
        trickling = dict(connections)
        while trickling:
            for name, connection in list(trickling.items()):
                if select.select([connection.connection], [], [], 0.01)[0]:
                    del trickling[name]
                else:
                    connection.send(TRICKLES[name][1])

        took_too_long = {name: part_that_took_too_long(connection) for name, connection in connections.items()}
        assert took_too_long == {name: part for name, (_, _, part) in TRICKLES.items()}


def test_a_connection_without_a_request_is_closed_without_a_word(hasty: Service) -> None:
    with wire(hasty) as silent, wire(hasty) as blank:
        blank.send(b"\r\n")

        assert silent.rest() == b""
        assert blank.rest() == b""


def test_a_connection_waits_longer_for_its_second_request_than_for_its_first(hasty: Service) -> None:
    requests = {
        "compiled": post(COMPILED),
        "compiled, with a head that is known": post(COMPILED),
        "other": post(ORDINARY),
    }
    with wires(hasty, requests) as connections:
        for name, connection in connections.items():
            connection.send(requests[name])
            connection.reply()
        answered = time.monotonic()

        assert [connection.rest() for connection in connections.values()] == [b""] * 3
        assert time.monotonic() - answered > KEEP_ALIVE - 0.1


def test_a_client_that_was_refused_and_stays_is_cut_off(hasty: Service) -> None:
    before = held(hasty)
    with wire(hasty) as connection:
        connection.send(b"\0")
        assert connection.reply().status == 400
        until(lambda: held(hasty) > before)

        until(lambda: held(hasty) == before)


def sip(service: Service) -> Wire:
    """A connection whose client has room for next to nothing, and reads none of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * KIB)
    connection.settimeout(0.2)
    connection.connect(("127.0.0.1", int(service.url.rpartition(":")[2])))
    return Wire(connection)


BINARY = b"Content-Type: application/octet-stream"
LARGE_REPLY = head(b"POST", b"/predict/batch", BINARY, b"Content-Length: 32000") + b"\x11" * 32_000
UNREAD = {
    "of the fast lane": LARGE_REPLY,
    "of the ordinary road": get(SCRIPT),
}


def test_a_client_that_does_not_read_its_replies_is_cut_off(hasty: Service) -> None:
    until(lambda: held(hasty) == 0)
    with ExitStack() as stack:
        for request in (LARGE_REPLY, get(b"/openapi.json")):  # by either road; the larger, the longer it may take
            connection = sip(hasty)
            stack.enter_context(connection.connection)
            with pytest.raises(OSError, match=r"timed out|Broken pipe|reset"):
                connection.send_without_end(request)

        until(lambda: held(hasty) == 0)


@pytest.mark.parametrize("request_", UNREAD.values(), ids=UNREAD)
def test_a_client_that_reads_slowly_gets_every_reply(gate: Service, request_: bytes) -> None:
    connection = sip(gate)
    with connection.connection:
        connection.send(request_ * 5)
        connection.connection.settimeout(None)

        bodies = {connection.reply().body for _ in range(5)}
        assert len(bodies) == 1


ENDS = {
    "nothing": b"",
    "in the request line": b"POST /pre",
    "in the head": head(b"POST", COMPILED)[:-2],
    "in the body": post(COMPILED)[:-1],
    "in the chunks": chunked(COMPILED, chunks=b"21\r\n{"),
    "after the request": post(COMPILED),
    "after an ordinary request": post(ORDINARY),
    "after a large request": get(SCRIPT),
    "after many requests": (post(COMPILED) + get(SCRIPT)) * 5,
    "after a malformed request": b"\0",
}


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("sent", ENDS.values(), ids=ENDS)
def test_a_client_that_goes_away_leaves_nothing_behind(gate: Service, sent: bytes, *, reset: bool) -> None:
    until(lambda: held(gate) == 0)
    before = descriptors(gate)
    for _ in range(20):
        with wire(gate) as connection:
            connection.send(sent)
            if reset:
                connection.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    until(lambda: held(gate) == 0 and descriptors(gate) == before)
    with wire(gate) as connection:
        connection.send(post(COMPILED))
        assert connection.reply().status == 200


def test_a_burst_of_connections_waits_in_line(gate: Service) -> None:
    with ExitStack() as stack:
        gate.process.send_signal(signal.SIGSTOP)
        stack.callback(gate.process.send_signal, signal.SIGCONT)
        burst = [Wire(stack.enter_context(gate.connect())) for _ in range(300)]
        for connection in burst:
            connection.send(post(COMPILED))
        gate.process.send_signal(signal.SIGCONT)

        assert {connection.reply().status for connection in burst} == {200}


def test_large_bodies_together_are_bounded_and_the_oldest_comes_through(hasty: Service) -> None:
    body = GOOD.ljust(LARGEST_BODY)
    oldest_request = post(COMPILED, body=body)
    half = len(oldest_request) - LARGEST_BODY // 2
    others = chunked(COMPILED, chunks=b"%x\r\n" % LARGEST_BODY + b" " * (LARGEST_BODY - 1))
    with ExitStack() as stack:
        oldest = stack.enter_context(wire(hasty))
        oldest.send(oldest_request[:half])
        younger = [stack.enter_context(wire(hasty)) for _ in range(12)]
        for connection in younger:
            connection.send(others)

        refusals = [connection.reply() for connection in younger]
        assert {(reply.status, reply.code) for reply in refusals} <= {(503, "overloaded"), (408, "request_timeout")}
        assert all(reply["retry-after"] in {"1", "2", "3"} for reply in refusals if reply.status == 503)
        assert [connection.rest() for connection in younger] == [b""] * 12
        oldest.send(oldest_request[half:])
        assert oldest.reply().status == 200
        again = stack.enter_context(wire(hasty))
        again.send(oldest_request)
        assert again.reply().status == 200

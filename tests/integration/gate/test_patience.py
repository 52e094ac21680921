"""How long the service waits, and for whom: the slow, the silent and the greedy."""

import re
import select
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.contract import GOOD
from tests.integration.gate.conftest import KEEP_ALIVE, LARGE_REPLY, LARGEST_BODY, held, sip
from tests.integration.service import Service
from tests.integration.wire import JSON, Wire, chunked, get, head, post, wire
from tests.waiting import until

COMPILED = b"/predict"
ORDINARY = b"/nothing"
STATUS = {COMPILED: 200, ORDINARY: 404}
ANNOUNCED = b"Content-Length: %d" % len(GOOD)


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


def test_a_client_that_does_not_read_its_replies_is_cut_off(hasty: Service) -> None:
    until(lambda: held(hasty) == 0)
    with ExitStack() as stack:
        for request in (LARGE_REPLY, get(b"/openapi.json")):  # by either road; the larger, the longer it may take
            connection = sip(hasty)
            stack.enter_context(connection.connection)
            with pytest.raises(OSError, match=r"timed out|Broken pipe|reset"):
                connection.send_without_end(request)

        until(lambda: held(hasty) == 0)


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

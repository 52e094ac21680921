"""What may not grow without end: bodies, chunks, extensions, trailers."""

import pytest

from tests.contract import GOOD
from tests.integration.wire import JSON, Wire, chunked, head, post
from tests.unit.server.behind_gate import Served
from tests.unit.server.edge.conftest import KIB, LARGEST_BODY
from tests.unit.server.wired import wired

COMPILED = b"/predict"
ORDINARY = b"/nothing"
MOST_ON_THE_WIRE = 2 * LARGEST_BODY + 32 * KIB

both = pytest.mark.parametrize("target", [COMPILED, ORDINARY], ids=["compiled", "other"])


def check_too_large(connection: Wire) -> None:
    reply = connection.reply()
    assert (reply.status, reply.code) == (413, "body_too_large")
    assert reply["connection"] == "close"
    assert connection.rest() == b""


def test_a_body_of_the_largest_size_is_read(gate: Served) -> None:
    with wired(gate) as connection:
        connection.send(post(COMPILED, body=GOOD.ljust(LARGEST_BODY)))

        assert connection.reply().status == 200


def test_a_body_of_the_largest_size_is_read_in_chunks(gate: Served) -> None:
    chunks = b"%x\r\n%b\r\n" % (LARGEST_BODY // 2, b" " * (LARGEST_BODY // 2))
    whole = b"%x\r\n%b\r\n" % (LARGEST_BODY // 2, GOOD.ljust(LARGEST_BODY // 2))
    with wired(gate) as connection:
        connection.send(chunked(COMPILED, chunks=chunks + whole + b"0\r\n\r\n"))

        assert connection.reply().status == 200


@both
def test_a_body_that_is_announced_as_too_large_is_refused_at_once(gate: Served, target: bytes) -> None:
    with wired(gate) as connection:
        connection.send(head(b"POST", target, JSON, b"Content-Length: %d" % (LARGEST_BODY + 1)))

        check_too_large(connection)


@both
def test_a_body_that_is_too_large_is_not_invited(gate: Served, target: bytes) -> None:
    length = b"Content-Length: %d" % (LARGEST_BODY + 1)
    with wired(gate) as connection:
        connection.send(head(b"POST", target, JSON, length, b"Expect: 100-continue"))

        check_too_large(connection)


@both
def test_a_body_that_turns_out_too_large_is_refused(gate: Served, target: bytes) -> None:
    with wired(gate) as connection:
        connection.send(chunked(target, chunks=b"ffffffff\r\n"))
        for _ in range(20):
            connection.send(b" " * (LARGEST_BODY // 16))

        check_too_large(connection)


ENDLESS = {
    "chunks of one byte": (b"", b"1\r\n \r\n"),
    "extensions": (b"", b"1;x=%b\r\n \r\n" % (b"n" * 100)),
    "an extension": (b"1;", b"n" * 100),
    "zeros before a size": (b"", b"0" * 100),
}


@both
@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_endless_framing_is_refused(gate: Served, target: bytes, endless: tuple[bytes, bytes]) -> None:
    start, more = endless
    times = (MOST_ON_THE_WIRE + LARGEST_BODY // 2) // len(more)
    with wired(gate) as connection:
        connection.send(chunked(target, chunks=start), more * times)

        check_too_large(connection)


@both
def test_endless_trailers_are_refused(gate: Served, target: bytes) -> None:
    with wired(gate) as connection:
        connection.send(chunked(target, chunks=b"0\r\n"), b"Needle: needle\r\n" * 4000)

        reply = connection.reply()
        assert (reply.status, reply.code) == (431, "headers_too_large")
        assert connection.rest() == b""


@both
def test_an_endless_trailer_is_refused(gate: Served, target: bytes) -> None:
    with wired(gate) as connection:
        connection.send(chunked(target, chunks=b"0\r\nNeedle: "), b"n" * (MOST_ON_THE_WIRE + LARGEST_BODY // 2))

        check_too_large(connection)


@both
def test_a_client_that_never_stops_sending_is_cut_off(gate: Served, target: bytes) -> None:
    with wired(gate) as connection:
        connection.send(chunked(target, chunks=b""))

        with pytest.raises(ConnectionError):
            connection.send_without_end(b"1\r\n \r\n" * KIB)

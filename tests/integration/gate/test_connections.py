"""What clients do with connections to the real service; all that they may send is for the tests of the protocol."""

import signal
import socket
import struct
from contextlib import ExitStack

import pytest

from tests.contract import GOOD
from tests.integration.gate.conftest import KIB, LARGE_REPLY, LARGEST_BODY, SCRIPT, descriptors, held, sip
from tests.integration.service import Service
from tests.integration.wire import JSON, Wire, chunked, get, head, post, wire
from tests.malformed import TO_COMPILED, TO_ORDINARY, Case, check_end, check_refusal
from tests.waiting import until

PREDICTION = b'{"prediction":-1.6875,"status":"success"}'
COMPILED = b"/predict"
ORDINARY = b"/predict?x=1"
MISSING = b"/nothing"
CLOSE = b"Connection: close"

both = pytest.mark.parametrize("target", [COMPILED, ORDINARY], ids=["compiled", "other"])


@both
def test_each_connection_that_ends_with_its_first_request_is_answered(gate: Service, target: bytes) -> None:
    for _ in range(5):
        with wire(gate) as connection:
            connection.send(post(target, CLOSE))

            assert connection.reply().body == PREDICTION
            assert connection.rest() == b""


OF_EACH_KIND = {f"{status} {code}": (data, status, code) for data, status, code in TO_COMPILED.values()}


@pytest.mark.parametrize("case", OF_EACH_KIND.values(), ids=OF_EACH_KIND)
def test_of_each_kind_of_refusal_one_is_made_after_the_replies_to_what_came_before(gate: Service, case: Case) -> None:
    with wire(gate) as connection:
        connection.send(post(COMPILED) + post(MISSING) + case[0])

        assert [connection.reply().status for _ in range(2)] == [200, 404]
        check_end(connection, case)


def test_a_malformed_request_to_any_other_path_is_refused(gate: Service) -> None:
    case = TO_ORDINARY["two lengths"]
    with wire(gate) as connection:
        connection.send(*(bytes([byte]) for byte in case[0]))

        check_refusal(connection.reply(), case)


@both
def test_requests_far_ahead_of_their_replies_are_all_answered(gate: Service, target: bytes) -> None:
    with wire(gate) as connection:
        connection.send(post(target) * 1000 + get(MISSING, CLOSE))

        assert {connection.reply().body for _ in range(1000)} == {PREDICTION}
        assert connection.reply().status == 404
        assert connection.rest() == b""


def test_a_client_that_has_said_all_gets_every_reply(gate: Service) -> None:
    targets = (COMPILED, ORDINARY, MISSING, COMPILED, ORDINARY)
    with wire(gate) as connection:
        connection.send(b"".join(map(post, targets)))
        connection.finish()

        assert [connection.reply().status for _ in targets] == [200, 200, 404, 200, 200]
        assert connection.rest() == b""


def test_a_body_is_invited_after_the_replies_that_are_due(gate: Service) -> None:
    announced = head(b"POST", COMPILED, JSON, b"Content-Length: %d" % len(GOOD), b"Expect: 100-continue")
    with wire(gate) as connection:
        connection.send(get(SCRIPT) + announced)

        assert len(connection.reply().body) > 1_000_000
        assert connection.reply().status == 100
        connection.send(GOOD)
        assert connection.reply().body == PREDICTION


@both
def test_a_client_that_is_still_sending_can_read_that_its_body_is_too_large(gate: Service, target: bytes) -> None:
    with wire(gate) as connection:
        connection.send(head(b"POST", target, JSON, b"Content-Length: %d" % (2 * LARGEST_BODY)))
        for _ in range(15):
            connection.send(b" " * (LARGEST_BODY // 16))

        reply = connection.reply()
        assert (reply.status, reply.code) == (413, "body_too_large")
        assert connection.rest() == b""


def test_a_client_that_never_stops_sending_is_cut_off(gate: Service) -> None:
    with wire(gate) as connection:
        connection.send(chunked(COMPILED, chunks=b""))

        with pytest.raises(ConnectionError):
            connection.send_without_end(b"1\r\n \r\n" * KIB)


UNREAD = {
    "of the fast lane": LARGE_REPLY,
    "of the ordinary road": get(SCRIPT),
}


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
    "after an ordinary request": post(MISSING),
    "after a large request": get(SCRIPT),
    "after many requests": (post(COMPILED) + get(SCRIPT)) * 5,
    "after a malformed request": b"\0",
}


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_clients_that_go_away_leave_nothing_behind(gate: Service, *, reset: bool) -> None:
    until(lambda: held(gate) == 0)
    before = descriptors(gate)
    for sent in ENDS.values():
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

"""A connection by itself, where a real one cannot be made to do what is asked, or not surely."""

import asyncio
import re
from collections.abc import Iterator
from time import perf_counter

import pytest

from tests.contract import GOOD
from tests.unit.log import Log
from tests.unit.server.behind_gate import DESCRIPTOR, Connection, Served, served
from weighbridge.adapters.http.fast_route import CompiledRoute
from weighbridge.adapters.http.problems import Reply
from weighbridge.adapters.metrics import SHED
from weighbridge.adapters.series import read

LANE = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(GOOD)
ROAD = LANE.replace(b"/predict", b"/predict?x=1")
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
MISSING = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
SCRIPT = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
LONG = 1000.0


@pytest.fixture
def here(log: Log) -> Iterator[Served]:
    with served(log, log_requests="all", max_pipelined=5, max_in_flight=3, max_body_bytes=10_000) as started:
        yield started


def codes(written: bytes) -> list[str]:
    """The codes of the problems among the replies."""
    return [part.partition(b'"')[0].decode() for part in written.split(b'"code":"')[1:] if b"request_id" in part]


@pytest.mark.parametrize("head", [LANE, ROAD], ids=["fast lane", "ordinary road"])
def test_a_request_gets_the_same_reply_wherever_it_is_cut(here: Served, head: bytes) -> None:
    whole = head + GOOD
    connection = here.connect()
    expected = connection.feed(whole)

    assert expected.startswith(OK)
    assert {connection.feed(whole[:at], whole[at:]) for at in range(1, len(whole))} == {expected}


def test_both_roads_write_the_same(here: Served) -> None:
    assert here.connect().feed(LANE + GOOD) == here.connect().feed(ROAD + GOOD)


@pytest.mark.parametrize("head", [LANE, ROAD, HEALTH, MISSING], ids=["fast lane", "ordinary road", "quick", "missing"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_an_offer_of_another_protocol_changes_nothing_wherever_it_is_cut(
    here: Served, head: bytes, framing: str
) -> None:
    body = GOOD if b"POST" in head else b""
    plain = head + body
    if framing == "chunks":
        head = re.sub(rb"Content-Length: .*\r\n", b"", head)[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
        body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        body += b"0\r\n\r\n"
    offer = head[:-2] + UPGRADE + b"\r\n" + body
    expected = here.connect().feed(plain) + here.connect().feed(HEALTH)
    connection = here.connect()

    assert {connection.feed(offer[:at], offer[at:] + HEALTH) for at in range(len(offer))} == {expected}
    assert not connection.transport.closing


def test_many_offers_at_once_are_each_answered(here: Served) -> None:
    offers = 5000
    written = here.connect().feed((HEALTH[:-2] + UPGRADE + b"\r\n") * offers)

    assert written.count(OK) == offers


def test_who_offers_another_protocol_is_invited_to_send_the_body_once(here: Served) -> None:
    head = LANE[:-2] + UPGRADE + b"Expect: 100-continue\r\n\r\n"
    written = here.connect().feed(head, GOOD)

    assert written.startswith(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert written.count(b"100 Continue") == 1


def test_the_body_behind_an_offer_of_another_protocol_is_judged_like_any_other(here: Served) -> None:
    chunks = b"POST /predict HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n"

    assert codes(here.connect().feed(chunks + b"2a00\r\n" + b"1" * 10_752)) == ["body_too_large"]
    assert codes(here.connect().feed(chunks + b"needle")) == ["bad_request"]
    assert codes(here.connect().feed(chunks + b"0\r\nConnection: close\r\n\r\n")) == ["bad_request"]


def test_a_route_that_raises_is_answered_with_an_internal_error_and_the_connection_goes_on(here: Served) -> None:
    def call(*_: object) -> Reply:
        raise ZeroDivisionError("the needle")

    route = here.lane.routes[b"GET", b"/health"]
    here.lane.routes[b"GET", b"/health"] = CompiledRoute(call, route.metrics)
    connection = here.connect()
    failed = connection.feed(HEALTH)

    assert failed.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert codes(failed) == ["internal_error"]
    assert b"needle" not in failed
    assert connection.feed(LANE + GOOD).startswith(OK)


def test_what_goes_wrong_in_the_gate_itself_is_an_internal_error_too(
    here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = here.connect()
    monkeypatch.setattr(here.lane, "routes", None)
    written = connection.feed(HEALTH)

    assert written.startswith(b"HTTP/1.1 500 ")
    assert codes(written) == ["internal_error"]
    assert b"\r\nconnection: close\r\n" in written


def test_more_requests_at_once_than_the_application_may_work_on_are_refused(log: Log, here: Served) -> None:
    connection = here.connect()
    loop = here.loop
    busy = [loop.create_task(asyncio.sleep(0)) for _ in range(3)]
    here.state.tasks.update(busy)
    connection.protocol.data_received(MISSING)
    here.state.tasks.difference_update(busy)
    loop.run_until_complete(asyncio.wait(busy))

    assert connection.transport.written.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert codes(connection.transport.written) == ["overloaded"]
    assert b"\r\nretry-after: " in connection.transport.written
    assert [values[0] for key, values in read(log.memory) if key == (SHED, "in_flight")] == [1]


def test_a_refusal_waits_for_the_replies_before_it_and_nothing_after_it_counts(here: Served) -> None:
    connection = here.connect()
    connection.protocol.data_received(MISSING + b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n")
    assert not connection.transport.reading
    connection.protocol._flow.resume_reading()  # as uvicorn does when the application asks for a body
    connection.protocol.data_received(b"\0")
    connection.settle()

    assert codes(connection.transport.written) == ["not_found", "http_version_not_supported"]


def test_more_requests_than_may_wait_for_their_turn_wait_unread(here: Served) -> None:
    connection = here.connect()
    for _ in range(20):
        connection.protocol.data_received(MISSING)
    assert not connection.transport.reading
    connection.settle()

    assert codes(connection.transport.written) == ["not_found"] * 20


@pytest.mark.parametrize(("request_", "status"), [(LANE + GOOD, b"200 OK"), (MISSING, b"404 Not Found")])
def test_what_waits_behind_an_unread_reply_is_answered_even_after_the_client_has_said_its_last(
    here: Served, request_: bytes, status: bytes
) -> None:
    connection = here.connect()
    connection.protocol.pause_writing()
    connection.protocol.data_received(request_)
    assert connection.transport.written == b""
    assert connection.protocol.eof_received()
    connection.protocol.resume_writing()
    connection.settle()

    assert connection.transport.written.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert connection.transport.closing


def test_a_reply_to_a_client_that_has_gone_starts_no_other(here: Served) -> None:
    connection = here.connect()
    connection.protocol.data_received(MISSING + MISSING)
    connection.transport.closing = True
    connection.settle()

    assert codes(connection.transport.written) == ["not_found"]


def test_the_last_reply_before_the_end_is_followed_by_none(here: Served) -> None:
    connection = here.connect()
    connection.feed(LANE)
    connection.protocol.shutdown()
    written = connection.feed(GOOD + LANE + GOOD + b"\0")

    assert written.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in written
    assert connection.transport.closing


def test_what_is_in_hand_at_the_end_is_answered(here: Served) -> None:
    connection = here.connect()
    connection.protocol.data_received(MISSING)
    connection.protocol.shutdown()
    connection.settle()

    assert codes(connection.transport.written) == ["not_found"]
    assert b"\r\nconnection: close\r\n" in connection.transport.written
    assert connection.transport.closing


def test_what_was_sent_ahead_is_answered_at_the_end(here: Served) -> None:
    connection = here.connect()
    connection.protocol.data_received(MISSING + MISSING + MISSING)
    connection.protocol.shutdown()
    connection.settle()

    assert codes(connection.transport.written) == ["not_found"] * 3
    assert connection.transport.written.count(b"\r\nconnection: close\r\n") == 1


def test_a_connection_that_is_asked_to_leave_ends_with_its_next_reply(here: Served) -> None:
    connection = here.connect()
    connection.feed(HEALTH)
    connection.protocol.shutdown()
    assert not connection.transport.closing

    reply = connection.feed(HEALTH)

    assert b"\r\nconnection: close\r\n" in reply
    assert connection.transport.closing


def test_a_connection_that_is_made_while_the_gate_drains_has_one_reply(here: Served) -> None:
    here.gate.drain()

    assert b"\r\nconnection: close\r\n" in here.connect().feed(HEALTH)


@pytest.mark.parametrize(("quiet", "ends"), [(0.5, False), (1.5, True)])
def test_when_all_is_to_end_a_connection_at_rest_ends_once_it_was_quiet(
    here: Served, quiet: float, *, ends: bool
) -> None:
    connection = here.connect()
    connection.feed(HEALTH)
    here.gate.closing = True
    connection.protocol.sweep(perf_counter() + quiet)

    assert connection.transport.closing is ends


@pytest.mark.parametrize(
    ("kept", "sent", "timeout"),
    [
        (False, (), "header_timeout"),
        (False, (b"\r\n",), "header_timeout"),
        (False, (HEALTH,), "keep_alive_timeout"),
        (False, (MISSING,), "keep_alive_timeout"),
        (True, (), "keep_alive_timeout"),
    ],
    ids=["new", "blank lines", "fast lane", "ordinary road", "handed on by another process"],
)
def test_a_connection_is_kept_for_longer_once_it_has_had_a_request(
    here: Served, sent: tuple[bytes, ...], timeout: str, *, kept: bool
) -> None:
    connection = here.connect(kept=kept)
    connection.feed(*sent)
    limit = getattr(here.gate.settings, timeout)
    connection.protocol.sweep(perf_counter() + limit - 1)
    assert not connection.transport.closing

    connection.protocol.sweep(perf_counter() + limit + 1)

    assert connection.transport.closing


@pytest.mark.parametrize(
    ("sent", "before", "kept"),
    [((), False, False), ((HEALTH,), False, True), ((), True, True)],
    ids=["new", "kept", "kept by another process"],
)
def test_a_connection_at_rest_is_handed_back_with_nothing_written_to_it(
    here: Served, sent: tuple[bytes, ...], *, before: bool, kept: bool
) -> None:
    given: list[tuple[int, bool]] = []

    def give(descriptor: int, *, kept: bool) -> bool:
        given.append((descriptor, kept))
        return True

    connection = here.connect(kept=before)
    connection.feed(*sent)
    written = connection.transport.written
    here.gate.give_back = give
    here.gate.closing = True
    connection.protocol.shutdown()
    connection.protocol.sweep(perf_counter())

    assert given == [(DESCRIPTOR, kept)]
    assert connection.transport.aborted
    assert connection.transport.written == written


def test_a_connection_is_handed_back_as_soon_as_its_reply_is_sent(here: Served) -> None:
    given: list[tuple[bytes, bool]] = []

    def give(_descriptor: int, *, kept: bool) -> bool:
        given.append((connection.transport.written, kept))
        return True

    connection = here.connect()
    here.gate.give_back = give
    connection.feed(MISSING)
    here.look()

    assert codes(connection.transport.written) == ["not_found"]
    assert b"\r\nconnection: close\r\n" not in connection.transport.written
    assert given == [(connection.transport.written, True)]
    assert connection.transport.aborted


@pytest.mark.parametrize("meanwhile", ["a request begins", "the connection ends"])
def test_a_connection_that_is_at_rest_no_more_is_not_handed_back(here: Served, meanwhile: str) -> None:
    connection = here.connect()
    here.gate.give_back = lambda _, **__: pytest.fail("it was handed back")
    connection.protocol.data_received(b"\r\n")  # which begins no request
    if meanwhile == "a request begins":
        connection.protocol.data_received(HEALTH[:-1])
    else:
        connection.transport.close()
    here.look()

    assert not connection.transport.aborted


def test_a_connection_with_a_request_in_hand_is_not_handed_back(here: Served) -> None:
    connection = here.connect()
    connection.feed(HEALTH[:-1])
    here.gate.give_back = lambda _, **__: True
    here.gate.closing = True
    connection.protocol.shutdown()
    connection.protocol.sweep(perf_counter())
    assert not connection.transport.aborted

    assert b"\r\nconnection: close\r\n" not in connection.feed(HEALTH[-1:])


def test_a_connection_with_an_unread_reply_is_not_handed_back(here: Served) -> None:
    connection = here.connect()
    connection.feed(HEALTH)
    connection.transport.unread = 1
    here.gate.give_back = lambda _, **__: True
    here.gate.closing = True
    connection.protocol.sweep(perf_counter())

    assert not connection.transport.aborted


def test_a_connection_that_cannot_be_handed_back_ends_like_any_other(here: Served) -> None:
    connection = here.connect()
    connection.feed(HEALTH)
    here.gate.give_back = lambda _, **__: False
    here.gate.closing = True
    connection.protocol.sweep(perf_counter())
    assert not connection.transport.aborted
    connection.protocol.sweep(perf_counter() + 1.5)

    assert connection.transport.closing


def test_a_tls_connection_is_asked_to_leave_since_no_other_process_could_go_on_with_it(
    here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = here.connect()
    monkeypatch.setattr(here.shared.road, "scheme", "https")
    here.gate.give_back = lambda _, **__: True
    here.gate.closing = True
    connection.protocol.shutdown()
    connection.protocol.sweep(perf_counter())
    assert not connection.transport.aborted

    assert b"\r\nconnection: close\r\n" in connection.feed(HEALTH)


def test_a_tls_connection_ends_at_once_with_a_refusal_for_it_has_no_half_closed_state(
    here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = here.connect()
    monkeypatch.setattr(connection.transport, "can_write_eof", lambda: False)

    assert codes(connection.feed(b"\0")) == ["bad_request"]
    assert connection.transport.closing


def test_an_ended_connection_is_counted(here: Served) -> None:
    here.connect().protocol.connection_lost(None)

    assert here.gate.vitals.closed == 1


def leave_unread(connection: Connection, size: int) -> None:
    connection.transport.unread = size
    connection.protocol.pause_writing()


def read_all(connection: Connection) -> None:
    connection.transport.unread = 0
    connection.protocol.resume_writing()


def test_what_arrives_and_what_is_unread_are_held_together(here: Served) -> None:
    connection = here.connect()
    connection.feed(LANE + GOOD[:20])
    assert here.gate.held == 20

    leave_unread(connection, 1000)
    assert here.gate.held == 1020
    connection.feed(GOOD[20:30])
    assert here.gate.held == 1030
    read_all(connection)
    assert here.gate.held == 30
    connection.feed(GOOD[30:])
    assert here.gate.held == 0


def test_what_a_lost_connection_held_is_free_again(here: Served) -> None:
    connection = here.connect()
    connection.feed(LANE + GOOD[:20])
    leave_unread(connection, 1000)
    connection.protocol.connection_lost(None)

    assert here.gate.held == 0
    assert here.gate.connections == set()


def test_nothing_is_read_from_a_client_that_does_not_read(here: Served) -> None:
    connection = here.connect()
    leave_unread(connection, 1)
    assert not connection.transport.reading

    read_all(connection)
    assert connection.transport.reading


def test_a_client_that_does_not_read_is_cut_off_in_time(here: Served) -> None:
    connection = here.connect()
    leave_unread(connection, 65536)
    now = perf_counter()
    connection.protocol.sweep(now + 10.5)
    assert not connection.transport.aborted

    connection.protocol.sweep(now + 11.5)
    assert connection.transport.aborted


def test_a_client_that_does_not_read_is_the_one_to_go_when_memory_is_short(here: Served) -> None:
    connection = here.connect()
    leave_unread(connection, 1000)
    connection.protocol.shed()

    assert connection.transport.aborted
    assert here.gate.held == 0


def test_a_body_whose_reading_was_paused_is_refused_as_too_much_not_as_too_slow(here: Served) -> None:
    connection = here.connect()
    connection.feed(LANE)
    connection.protocol.pause()
    assert not connection.transport.reading
    connection.protocol.sweep(perf_counter() + LONG)

    assert codes(connection.transport.written) == ["overloaded"]


def test_a_paused_connection_reads_on_when_it_may(here: Served) -> None:
    connection = here.connect()
    connection.feed(LANE)
    connection.protocol.pause()
    connection.protocol.resume()

    assert connection.transport.reading


def test_a_request_that_the_application_works_on_has_all_the_time_it_needs(here: Served) -> None:
    connection = here.connect()
    connection.protocol.data_received(MISSING)
    connection.protocol.sweep(perf_counter() + LONG)

    assert not connection.transport.closing
    connection.settle()
    assert codes(connection.transport.written) == ["not_found"]


def test_a_connection_that_the_application_has_ended_is_cut_off_if_its_client_does_not_leave(here: Served) -> None:
    connection = here.connect()
    connection.transport.close()
    now = perf_counter()
    connection.protocol.sweep(now)
    connection.protocol.sweep(now + 1.5)
    assert not connection.transport.aborted

    connection.protocol.sweep(now + 2.5)
    assert connection.transport.aborted


def test_every_request_in_hand_hears_that_its_client_has_gone(here: Served) -> None:
    connection = here.connect()
    connection.protocol.data_received(SCRIPT + SCRIPT)
    connection.protocol.connection_lost(ConnectionResetError())
    connection.transport.closing = True
    connection.settle()

    assert connection.transport.written == b""


def test_a_body_is_invited_when_nothing_else_is_due(here: Served) -> None:
    connection = here.connect()
    expecting = LANE[:-2] + b"Expect: 100-continue\r\n\r\n"

    assert connection.feed(expecting) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert connection.feed(GOOD).startswith(OK)
    assert connection.feed(MISSING + expecting).endswith(b"}HTTP/1.1 100 Continue\r\n\r\n")

"""Malformed requests to the protocol: whatever comes before, after and in whichever pieces, each gets one refusal."""

import pytest

from tests.integration.wire import get, post
from tests.malformed import COMPILED, ORDINARY, TO_COMPILED, TO_ORDINARY, Case, check_end, check_refusal
from tests.unit.server.behind_gate import Served
from tests.unit.server.wired import wired

BIG = 512


@pytest.mark.parametrize("case", TO_COMPILED.values(), ids=TO_COMPILED)
def test_a_malformed_request_to_a_compiled_route_is_refused_once(lane: Served, case: Case) -> None:
    with wired(lane) as connection:
        connection.send(case[0])

        check_end(connection, case)


@pytest.mark.parametrize("case", TO_ORDINARY.values(), ids=TO_ORDINARY)
def test_a_malformed_request_to_any_other_path_is_refused_once(lane: Served, case: Case) -> None:
    with wired(lane) as connection:
        connection.send(case[0])

        check_end(connection, case)


def test_a_malformed_request_is_refused_however_it_is_cut(lane: Served) -> None:
    for case in TO_COMPILED.values():
        with wired(lane) as connection:
            connection.send(*(bytes([byte]) for byte in case[0][:BIG]), case[0][BIG:])

            check_end(connection, case)


@pytest.mark.parametrize(("before", "status"), [(COMPILED, 200), (ORDINARY, 404)], ids=["compiled", "other"])
def test_what_came_before_a_malformed_request_is_answered_first(lane: Served, before: bytes, status: int) -> None:
    for case in TO_COMPILED.values():
        with wired(lane) as connection:
            connection.send(post(before, b"X-Request-ID: first") + case[0])

            first, second = connection.reply(), connection.reply()
            assert (first.status, first["x-request-id"]) == (status, "first")
            check_refusal(second, case)
            assert second["x-request-id"] != "first"
            assert connection.rest() == b""


def test_nothing_after_a_malformed_request_is_answered(lane: Served) -> None:
    for case in TO_COMPILED.values():
        with wired(lane) as connection:
            connection.send(case[0] + post(COMPILED) + post(ORDINARY))

            check_end(connection, case)


def test_a_request_id_is_kept_in_a_refusal(lane: Served) -> None:
    with wired(lane) as connection:
        connection.send(get(COMPILED, b"X-Request-ID: mine", b"Expect: needle"))

        assert connection.reply()["x-request-id"] == "mine"

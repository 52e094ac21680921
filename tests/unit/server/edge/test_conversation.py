"""What one connection may ask, in which pieces and order, and when it goes on."""

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract import GOOD
from tests.integration.wire import JSON, Wire, chunked, cut, get, head, post
from tests.unit.server.behind_gate import Served
from tests.unit.server.wired import wired

PREDICTION = b'{"prediction":-1.6875,"status":"success"}'
COMPILED = b"/predict"
ORDINARY = b"/predict?x=1"
MISSING = b"/nothing"
SCRIPT = b"/docs/assets/swagger-ui-bundle.js"
CLOSE = b"Connection: close"

both = pytest.mark.parametrize("target", [COMPILED, ORDINARY], ids=["compiled", "other"])


def check_prediction(connection: Wire) -> None:
    reply = connection.reply()
    assert (reply.status, reply.body) == (200, PREDICTION)
    assert reply.values("connection") == []


def check_last_prediction(connection: Wire) -> None:
    reply = connection.reply()
    assert (reply.status, reply.body) == (200, PREDICTION)
    assert reply["connection"] == "close"
    assert connection.rest() == b""


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (post(COMPILED, body=b'{"features":[1]}'), 400, "feature_count_mismatch"),
        (get(MISSING), 404, "not_found"),
        (get(COMPILED), 405, "method_not_allowed"),
        (post(b"/predict/batch", body=b'{"instances":[' + b"[1]," * 1000 + b"[1]]}"), 413, "too_many_rows"),
        (post(COMPILED, b"Content-Encoding: gzip"), 415, "unsupported_media_type"),
        (post(ORDINARY, b"Content-Encoding: gzip"), 415, "unsupported_media_type"),
        (head(b"POST", COMPILED, b"Content-Length: 2") + b"{}", 415, "unsupported_media_type"),
        (post(COMPILED, body=b"{}"), 422, "input_invalid"),
        (post(COMPILED, body=b""), 422, "json_invalid"),
        (post(COMPILED, body=b'{"features":[1e308,0,1.7e308,0]}'), 422, "prediction_not_finite"),
    ],
)
def test_a_connection_goes_on_after_an_error_of_the_request(
    gate: Served, request_: bytes, status: int, code: str
) -> None:
    with wired(gate) as connection:
        for _ in range(2):
            connection.send(request_)
            reply = connection.reply()
            assert (reply.status, reply.code) == (status, code)
            connection.send(post(COMPILED))
            check_prediction(connection)


@both
def test_a_request_is_answered_that_comes_byte_by_byte(gate: Served, target: bytes) -> None:
    request = chunked(target, chunks=b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD) + b"0\r\nNeedle: x\r\n\r\n")
    with wired(gate) as connection:
        connection.send(*cut(request, range(1, len(request))))

        check_prediction(connection)


CONVERSATION = {
    "a row": (post(COMPILED), 200),
    "in chunks": (chunked(COMPILED, chunks=b"1;x\r\n{\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD) - 1, GOOD[1:])), 200),
    "nothing there": (get(MISSING), 404),
    "no body": (get(b"/health"), 200),
    "the other road": (post(ORDINARY), 200),
    "a wrong row": (post(COMPILED, body=b"{}"), 422),
    "a body for nothing": (post(MISSING), 404),
    "a body for health": (head(b"GET", b"/health", b"Content-Length: 3") + b"{}\n", 200),
    "a head alone": (head(b"HEAD", b"/livez"), 200),
    "a row again": (post(COMPILED), 200),
}


@settings(max_examples=60)
@given(
    asked=st.lists(st.sampled_from(sorted(CONVERSATION)), min_size=1, max_size=20),
    sizes=st.lists(st.integers(1, 200), max_size=40),
)
def test_requests_sent_ahead_are_answered_in_order_however_they_are_cut(
    gate: Served, asked: list[str], sizes: list[int]
) -> None:
    requests = b"".join(CONVERSATION[name][0] for name in asked)
    with wired(gate) as connection:
        connection.send(*cut(requests, [at for at in accumulate(sizes) if at < len(requests)]))

        for name in asked:
            method = "HEAD" if name == "a head alone" else "GET"
            assert connection.reply(method).status == CONVERSATION[name][1]


def test_replies_carry_the_ids_of_their_requests_in_order(gate: Served) -> None:
    targets = (COMPILED, MISSING, ORDINARY, COMPILED, COMPILED, SCRIPT, COMPILED)
    with wired(gate) as connection:
        connection.send(b"".join(post(target, b"X-Request-ID: n%d" % n) for n, target in enumerate(targets)))

        assert [connection.reply()["x-request-id"] for _ in targets] == [f"n{n}" for n in range(len(targets))]


@both
def test_a_connection_ends_when_its_request_says_so(gate: Served, target: bytes) -> None:
    with wired(gate) as connection:
        connection.send(post(target, CLOSE) + post(target) + b"\0")

        check_last_prediction(connection)


@both
@pytest.mark.parametrize("lines", [(), (b"Connection: keep-alive",)], ids=["plain", "keep-alive"])
def test_a_connection_of_http_1_0_ends_with_its_first_reply(
    gate: Served, target: bytes, lines: tuple[bytes, ...]
) -> None:
    with wired(gate) as connection:
        connection.send(post(target, *lines, version=b"1.0") + post(target))

        check_last_prediction(connection)


def test_http_1_0_needs_no_host(gate: Served) -> None:
    with wired(gate) as connection:
        connection.send(b"GET /health HTTP/1.0\r\n\r\n")

        assert connection.reply().status == 200


@both
def test_a_client_that_has_said_all_gets_its_reply(gate: Served, target: bytes) -> None:
    with wired(gate) as connection:
        connection.send(post(target))
        connection.finish()

        assert connection.reply().body == PREDICTION
        assert connection.rest() == b""


def test_a_client_that_has_said_all_gets_every_reply(gate: Served) -> None:
    targets = (COMPILED, ORDINARY, MISSING, COMPILED, ORDINARY)
    with wired(gate) as connection:
        connection.send(b"".join(map(post, targets)))
        connection.finish()

        assert [connection.reply().status for _ in targets] == [200, 200, 404, 200, 200]
        assert connection.rest() == b""


@both
def test_a_body_is_invited(gate: Served, target: bytes) -> None:
    announced = head(b"POST", target, JSON, b"Content-Length: %d" % len(GOOD), b"Expect: 100-Continue")
    with wired(gate) as connection:
        for _ in range(2):
            connection.send(announced)
            assert connection.reply().status == 100
            connection.send(GOOD)
            check_prediction(connection)


@both
def test_a_body_in_chunks_is_invited(gate: Served, target: bytes) -> None:
    with wired(gate) as connection:
        connection.send(chunked(target, b"Expect: 100-continue", chunks=b""))
        assert connection.reply().status == 100
        connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD))

        check_prediction(connection)


def test_a_body_is_invited_after_the_replies_that_are_due(gate: Served) -> None:
    announced = head(b"POST", COMPILED, JSON, b"Content-Length: %d" % len(GOOD), b"Expect: 100-continue")
    with wired(gate) as connection:
        connection.send(get(SCRIPT) + announced)

        assert len(connection.reply().body) > 1_000_000
        assert connection.reply().status == 100
        connection.send(GOOD)
        check_prediction(connection)


def test_no_body_is_not_invited(gate: Served) -> None:
    with wired(gate) as connection:
        connection.send(get(b"/health", b"Expect: 100-continue"))

        assert connection.reply().status == 200


def test_no_body_is_invited_in_http_1_0(gate: Served) -> None:
    with wired(gate) as connection:
        connection.send(post(COMPILED, b"Expect: 100-continue", version=b"1.0"))

        check_last_prediction(connection)


@pytest.mark.parametrize("target", [b"/health", b"/health?x=1", b"/openapi.json"])
def test_the_reply_to_head_is_that_to_get_without_its_body(gate: Served, target: bytes) -> None:
    with wired(gate) as connection:
        connection.send(head(b"HEAD", target) + head(b"GET", target))

        without, whole = connection.reply("HEAD"), connection.reply()
        assert (without.status, whole.status) == (200, 200)
        assert without["content-type"] == whole["content-type"]
        assert without["content-length"] == whole["content-length"]


def test_options_for_the_whole_server_lists_the_methods(gate: Served) -> None:
    with wired(gate) as connection:
        connection.send(head(b"OPTIONS", b"*") * 2)

        assert [connection.reply()["allow"] for _ in range(2)] == ["GET, HEAD, OPTIONS, POST"] * 2


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get(b"http://example.com/health"), 200),
        (post(b"http://example.com:80/predict"), 200),
        (get(b"/health?feature=1"), 200),
        (get(b"*"), 404),
        (get(b"/" + b"n" * 8191), 404),
        *((get(path), 404) for path in (b"//health", b"//", b"/health/", b"/%00", b"/%ff", b"/..%2fhealth", b"/\\")),
        *((get(path), 404) for path in (b"/../predict", b"/./predict", b"/docs/assets/../../pyproject.toml")),
        (head(b"GET", b"/health", host=b""), 200),
        (post(b"//predict"), 404),
        (head(b"PATCH", COMPILED), 405),
        (get(b"/health", *(b"N%d: x" % n for n in range(99))), 200),
        (get(b"/health", b"N: " + b"n" * 31 * 1024), 200),
        (get(b"/health", b"Upgrade: h2c"), 200),
        (get(b"/health", b"Connection: upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"), 200),
        (head(b"GET", b"/health", host=b"[::1]:8000"), 200),
        (b"\r\n" + get(b"/health"), 200),
    ],
)
def test_what_is_unusual_but_allowed_is_answered_and_the_connection_goes_on(
    gate: Served, request_: bytes, status: int
) -> None:
    with wired(gate) as connection:
        for _ in range(2):
            connection.send(request_)
            assert connection.reply().status == status


def test_a_tunnel_is_refused(gate: Served) -> None:
    with wired(gate) as connection:
        connection.send(head(b"CONNECT", COMPILED, b"Content-Length: 2") + b"{}")

        assert connection.reply().status == 501
        assert connection.rest() == b""


@both
def test_a_trailer_is_no_header(gate: Served, target: bytes) -> None:
    trailers = b"0\r\nContent-Encoding: gzip\r\nX-Request-ID: late\r\nHost: y\r\n\r\n"
    with wired(gate) as connection:
        connection.send(chunked(target, chunks=b"%x\r\n%b\r\n" % (len(GOOD), GOOD) + trailers))

        reply = connection.reply()
        assert (reply.status, reply.body) == (200, PREDICTION)
        assert reply["x-request-id"] != "late"


ODD_IDS = {
    "empty": b"",
    "with a blank": b"a b",
    "with quotes": b'"needle"',
    "with a brace": b'needle"}',
    "with a tab": b"needle\tx",
    "not ASCII": b"n\xc3\xa9edle",
    "not UTF-8": b"needle\xff",
    "of 65 characters": b"n" * 65,
    "of 10 kB": b"n" * 10_000,
    "two": b"needle\r\nX-Request-ID: needle",
}


@both
@pytest.mark.parametrize("odd", ODD_IDS.values(), ids=ODD_IDS)
def test_an_odd_request_id_is_replaced(gate: Served, target: bytes, odd: bytes) -> None:
    with wired(gate) as connection:
        connection.send(post(target, b"X-Request-ID: " + odd) * 2)

        first, second = connection.reply(), connection.reply()
        made = {first["x-request-id"], second["x-request-id"]}
        assert len(made) == 2
        assert all(len(name) < 40 and "eedle" not in name for name in made)


@both
def test_a_sane_request_id_is_kept(gate: Served, target: bytes) -> None:
    sane = b"aZ09._-" + b"n" * 57
    with wired(gate) as connection:
        connection.send(post(target, b"x-request-id:" + sane))

        assert connection.reply()["x-request-id"] == sane.decode()

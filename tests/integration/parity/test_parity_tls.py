"""TLS: the same answers, on both roads."""

import ssl
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.integration.gate.test_malformed import TO_COMPILED
from tests.integration.parity.conftest import Certificates, Pair
from tests.integration.parity.test_parity_contract import REPLY, SMALL_CASES, plain
from tests.integration.service import Service
from tests.integration.wire import JSON, Wire, cut, get, head, post

PREDICTION = b'{"prediction":-1.6875,"status":"success"}'
LARGEST_BODY = 16 * 1024 * 1024
SCRIPT = b"/docs/assets/swagger-ui-bundle.js"


def test_every_small_case_is_answered_alike_over_tls(tls_pair: Pair, pair: Pair) -> None:
    for case in SMALL_CASES:
        assert tls_pair.check(plain(case)) == pair.check(plain(case))


@pytest.mark.parametrize("target", [b"/predict", b"/predict?x=1"], ids=["compiled", "other"])
def test_a_request_over_tls_is_answered_alike_wherever_it_is_cut(tls_pair: Pair, target: bytes) -> None:
    request = post(target)
    answers = {tls_pair.check(*cut(request, [at])) for at in range(1, len(request), 5)}

    assert len(answers) == 1


def test_requests_sent_ahead_over_tls_are_answered_alike(tls_pair: Pair) -> None:
    answer = tls_pair.check((post(b"/predict") + get(b"/nothing") + get(SCRIPT) + post(b"/predict?x=1")) * 5)

    assert len(REPLY.findall(answer)) == 21


def test_malformed_requests_over_tls_are_refused_alike(tls_pair: Pair) -> None:
    for request, _, _ in TO_COMPILED.values():
        assert len(REPLY.findall(tls_pair.check(post(b"/predict"), request, last=b""))) == 2


@pytest.mark.parametrize("lines", [(b"Connection: close",), (b"Expect: 100-continue", b"Connection: close")])
def test_a_connection_over_tls_ends_when_its_request_says_so(tls_pair: Pair, lines: tuple[bytes, ...]) -> None:
    assert tls_pair.check(post(b"/predict", *lines), last=b"").endswith(PREDICTION)


def roads(pair: Pair) -> dict[str, Service]:
    return {"fast lane": pair.lane, "ordinary road": pair.road}


@pytest.mark.parametrize("road", ["fast lane", "ordinary road"])
def test_a_client_that_is_still_sending_over_tls_can_read_that_its_body_is_too_large(tls_pair: Pair, road: str) -> None:
    with tls_pair.connect(roads(tls_pair)[road]) as client:
        client.send(head(b"POST", b"/predict", JSON, b"Content-Length: %d" % (2 * LARGEST_BODY)))
        for _ in range(16):
            client.send(b" " * (LARGEST_BODY // 32))

        assert client.reply().status == 413
        assert client.rest() == b""


def test_a_client_of_the_authority_is_let_in(mutual_pair: Pair) -> None:
    assert mutual_pair.check(post(b"/predict", b"Connection: close"), last=b"").endswith(PREDICTION)


@pytest.mark.parametrize("road", ["fast lane", "ordinary road"])
def test_a_client_without_a_certificate_is_not_let_in(mutual_pair: Pair, certificates: Certificates, road: str) -> None:
    received = b""
    strangers = replace(mutual_pair, tls=certificates.client(with_certificate=False))
    with suppress(ssl.SSLError, ConnectionError), strangers.connect(roads(mutual_pair)[road]) as stranger:
        stranger.send(post(b"/predict"))
        received = stranger.rest()

    assert received == b""


@pytest.mark.parametrize("road", ["fast lane", "ordinary road"])
def test_a_client_without_tls_gets_nothing(tls_pair: Pair, road: str) -> None:
    known = post(b"/predict", b"Connection: close")
    tls_pair.check(known, last=b"")
    with roads(tls_pair)[road].connect() as connection:
        client = Wire(connection)
        client.send(known)

        assert b"HTTP/" not in client.rest()

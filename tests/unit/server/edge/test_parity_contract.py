"""The table of the contract by both roads, and one case of each kind in every manner of asking."""

import re
import struct
from collections.abc import Callable, Iterator
from math import inf, nan

import httpx2
import pytest

from tests.contract import CASES, GOOD, GOOD_BATCH, ONE_OF_EACH, Case
from tests.integration.wire import cut
from tests.malformed import TO_COMPILED, TO_ORDINARY
from tests.unit.server.wired import Pair, Wires

BINARY = {"content-type": "application/octet-stream"}
IN_KIND = {**BINARY, "accept": "application/octet-stream"}
ROWS = struct.pack("<8d", 1.5, 2.25, -0.75, 4.0, -0.0, 5e-324, 1.0, 1e308)
BATCH = "/predict/batch"
REPLY = re.compile(rb"HTTP/1\.1 \d\d\d [A-Z]")
KIB = 1024
ANY_STATUS = 0  # which one it has to be is for the contract's own tests


def _binary(name: str, body: bytes, headers: dict[str, str] = BINARY) -> Case:
    return Case(name, "POST", BATCH, ANY_STATUS, body, headers)


BINARY_ROWS = [
    _binary("rows", ROWS),
    _binary("rows, answered in kind", ROWS, IN_KIND),
    _binary("rows, anything accepted", ROWS, {**BINARY, "accept": "*/*"}),
    _binary("100,000 rows", ROWS[:32] * 100_000, IN_KIND),
    _binary("100,001 rows", ROWS[:32] * 100_001),
    _binary("no rows", b""),
    _binary("half a number", ROWS[:-4]),
    _binary("half a row", ROWS[:-16]),
    _binary("an infinity", ROWS + struct.pack("<4d", 1, inf, 1, 1)),
    _binary("no number", ROWS + struct.pack("<4d", nan, 1, 1, 1)),
    _binary("an overflow", struct.pack("<4d", 1e308, 1.0, 1.7e308, 0)),
    _binary("compressed rows", ROWS, {**BINARY, "content-encoding": "gzip"}),
    _binary("rows with parameters", ROWS, {"content-type": "application/octet-stream; a=b"}),
    _binary(
        "JSON, answered in binary",
        GOOD_BATCH,
        {"content-type": "application/json", "accept": BINARY["content-type"]},
    ),
    Case("binary for one row", "POST", "/predict", ANY_STATUS, ROWS[:32], BINARY),
]
SMALL_CASES = [
    case for case in [*ONE_OF_EACH, *BINARY_ROWS] if len(case.body or b"") < 4 * KIB and len(case.path) < KIB
]


def head(case: Case, *more: str, version: str = "1.1") -> bytes:
    lines = (f"{name}: {value}" for name, value in {"host": "x", **case.headers}.items())
    return "\r\n".join((f"{case.method} {case.path} HTTP/{version}", *lines, *more, "", "")).encode()


def _length(case: Case) -> str:
    return f"content-length: {len(case.body or b'')}"


def plain(case: Case) -> bytes:
    return head(case, _length(case)) + (case.body or b"")


def _chunked(case: Case) -> bytes:
    body = case.body or b""
    chunks = b"".join(b"1;x=y\r\n%b\r\n" % body[at : at + 1] for at in range(len(body)))
    return head(case, "transfer-encoding: chunked") + chunks + b"0\r\nNeedle: needle\r\n\r\n"


MANNERS: dict[str, Callable[[Case], bytes]] = {
    "once more on the same connection": lambda case: plain(case) * 2,
    "in chunks of a byte": _chunked,
    "with a request id": lambda case: head(case, _length(case), "x-request-id: mine") + (case.body or b""),
    "with an odd request id": lambda case: head(case, _length(case), 'x-request-id: "') + (case.body or b""),
    "with an invitation": lambda case: head(case, _length(case), "expect: 100-continue") + (case.body or b""),
    "with the wrong expectation": lambda case: head(case, _length(case), "expect: needle") + (case.body or b""),
    "with a query": lambda case: (
        head(Case(case.name, case.method, case.path + "?x=1", ANY_STATUS, headers=case.headers), _length(case))
        + (case.body or b"")
    ),
    "with the host in the target": lambda case: (
        head(Case(case.name, case.method, "http://x" + case.path, ANY_STATUS, headers=case.headers), _length(case))
        + (case.body or b"")
    ),
    "with the offer of another protocol": lambda case: (
        head(case, _length(case), "connection: upgrade", "upgrade: h2c") + (case.body or b"")
    ),
    "between others": lambda case: plain(_row()) + plain(case) + head(_missing()) + plain(_row()),
}

LAST_MANNERS: dict[str, Callable[[Case], bytes]] = {
    "on a connection to be closed": lambda case: head(case, _length(case), "connection: close") + (case.body or b""),
    "in HTTP/1.0": lambda case: head(case, _length(case), version="1.0") + (case.body or b""),
}


def _row() -> Case:
    return Case("a row", "POST", "/predict", ANY_STATUS, GOOD)


def _missing() -> Case:
    return Case("nothing there", "GET", "/nothing", ANY_STATUS, headers={})


@pytest.fixture(scope="module")
def client(pair: Pair) -> Iterator[httpx2.Client]:
    """An HTTP client of the fast lane."""
    with httpx2.Client(base_url="http://x", transport=Wires(pair.lane)) as client:
        yield client


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_contract_holds_on_the_fast_lane(client: httpx2.Client, case: Case) -> None:
    case.check(client)


@pytest.mark.parametrize("case", [*CASES, *BINARY_ROWS], ids=lambda case: case.name)
def test_every_case_is_answered_alike(pair: Pair, case: Case) -> None:
    assert REPLY.match(pair.check(plain(case)))


@pytest.mark.parametrize("manner", MANNERS.values(), ids=MANNERS)
def test_every_small_case_is_answered_alike_in_every_manner(pair: Pair, manner: Callable[[Case], bytes]) -> None:
    for case in SMALL_CASES:
        assert REPLY.match(pair.check(manner(case)))


@pytest.mark.parametrize("manner", LAST_MANNERS.values(), ids=LAST_MANNERS)
def test_every_small_case_is_answered_alike_when_it_is_the_last(pair: Pair, manner: Callable[[Case], bytes]) -> None:
    for case in SMALL_CASES:
        assert REPLY.match(pair.check(manner(case), last=b""))


@pytest.mark.parametrize(
    "case",
    [
        Case("a row", "POST", "/predict", ANY_STATUS, GOOD),
        Case("binary rows", "POST", BATCH, ANY_STATUS, ROWS, IN_KIND),
        Case("nothing there", "GET", "/nothing", ANY_STATUS, headers={}),
    ],
    ids=lambda case: case.name,
)
def test_a_request_is_answered_alike_wherever_it_is_cut(pair: Pair, case: Case) -> None:
    request = plain(case)
    answers = {pair.check(*cut(request, [at])) for at in range(1, len(request))}

    assert len(answers) == 1


def test_malformed_requests_to_a_compiled_route_are_refused_alike(pair: Pair) -> None:
    for request, _, _ in TO_COMPILED.values():
        assert len(REPLY.findall(pair.check(plain(_row()), request))) == 2


def test_malformed_requests_to_any_other_path_are_refused_alike(pair: Pair) -> None:
    for request, _, _ in TO_ORDINARY.values():
        assert len(REPLY.findall(pair.check(head(_missing()), request))) == 2

"""Every request is counted, once, whichever road it took and however it ended."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.contract import GOOD
from tests.unit.log import Log
from tests.unit.server.behind_gate import Served, served
from weighbridge.adapters.metrics import ABANDONED, REQUEST
from weighbridge.adapters.series import read

Labels = tuple[str, ...]
"""Route, model, version, outcome and status."""

MADE_UP = 200


@pytest.fixture(params=[True, False], ids=["fast lane", "ordinary road"])
def here(log: Log, request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(log, fast_lane=request.param, log_requests="none") as started:
        yield started


def asking(target: bytes, body: bytes | None = None, *, method: bytes = b"GET", line: bytes = b"") -> bytes:
    """A request; with a body, or an empty one, a POST."""
    if body is not None:
        method, line = b"POST", b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    return b"%b %b HTTP/1.1\r\nHost: x\r\n%b\r\n%b" % (method, target, line, body or b"")


PREDICT = ("/predict", "default", "embedded")
BATCH = ("/predict/batch", "default", "embedded")
HEALTH = ("/health", "", "")
OTHER = ("other", "", "")

ASKED: list[tuple[bytes, int, Labels]] = [
    (asking(b"/predict", GOOD), 7, (*PREDICT, "success", "200")),
    (asking(b"/predict?x=1", GOOD), 2, (*PREDICT, "success", "200")),
    (asking(b"/predict", b"{}"), 3, (*PREDICT, "refused", "422")),
    (asking(b"/predict", b'{"features":[1]}'), 2, (*PREDICT, "refused", "400")),
    (asking(b"/predict", method=b"POST", line=b"Content-Length: 0\r\n"), 1, (*PREDICT, "refused", "415")),
    (asking(b"/predict/batch", b'{"instances":[[1,2,3,4]]}'), 4, (*BATCH, "success", "200")),
    (asking(b"/predict/batch", b'{"instances":[]}'), 2, (*BATCH, "refused", "422")),
    (asking(b"/health"), 5, (*HEALTH, "success", "200")),
    (asking(b"/health", method=b"HEAD"), 3, (*HEALTH, "success", "200")),
    (asking(b"/livez"), 1, ("/livez", "", "", "success", "200")),
    (asking(b"/metrics"), 2, (*OTHER, "refused", "404")),
    (asking(b"*", method=b"OPTIONS"), 1, (*OTHER, "success", "204")),
    (asking(b"/health", line=b"Expect: needle\r\n"), 2, (*OTHER, "refused", "417")),
    (asking(b"/health").replace(b"HTTP/1.1", b"HTTP/2.5"), 2, (*OTHER, "failed", "505")),
    (b"\0", 1, (*OTHER, "refused", "400")),
]
UNFINISHED = asking(b"/predict", GOOD)[:-1]


def counted(log: Log, family: str = REQUEST) -> Counter[Labels]:
    """What was counted, by labels."""
    return Counter(
        {tuple(labels): int(sum(values[:-1])) for (name, *labels), values in read(log.memory) if name == family}
    )


def test_every_request_is_counted_once(log: Log, here: Served) -> None:
    expected = Counter[Labels]()
    for request, times, labels in ASKED:
        for _ in range(times):
            assert here.connect().feed(request).startswith(b"HTTP/1.1 " + labels[-1].encode())
        expected[labels] += times

    assert counted(log) == expected


def test_requests_sent_ahead_are_all_counted(log: Log, here: Served) -> None:
    connection = here.connect()
    for _ in range(10):
        connection.feed((asking(b"/predict", GOOD) + asking(b"/nothing")) * 20)

    assert counted(log) == {(*PREDICT, "success", "200"): 200, (*OTHER, "refused", "404"): 200}


def test_requests_whose_clients_go_away_are_counted_apart(log: Log, here: Served) -> None:
    for _ in range(5):
        connection = here.connect()
        connection.feed(UNFINISHED)
        connection.protocol.connection_lost(None)

    assert counted(log, ABANDONED) == {(): 5}
    assert not counted(log)


def test_paths_that_are_made_up_make_no_series(log: Log, here: Served) -> None:
    connection = here.connect()
    for number in range(MADE_UP):
        connection.feed(asking(b"/v2/models/made-up-%d" % number))
    connection.feed(asking(b"/" + b"n" * 9000))

    assert counted(log) == {(*OTHER, "refused", "404"): MADE_UP, (*OTHER, "refused", "414"): 1}

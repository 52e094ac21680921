"""A head that was judged is remembered by its bytes; that must never show in an answer."""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract import GOOD
from tests.unit.log import Log
from tests.unit.server.behind_gate import Served, served
from weighbridge.server.edge import lane
from weighbridge.server.edge.head import Head

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(GOOD)
WHOLE = HEAD + GOOD
OTHER = b'{"features":[1,1,1,1]           }'
WRONG = b'{"features":[1,1,1,1,1]         }'
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = HEAD[:-2] + b"Connection: close\r\n\r\n" + GOOD
OLD = HEALTH.replace(b"1.1", b"1.0")
UPGRADE = HEAD[:-2] + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n" + GOOD
MISSING = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"


class NoMemory(dict[bytes, Head]):
    """Heads that are forgotten at once."""

    def __setitem__(self, data: bytes, head: Head) -> None:
        """Forget it."""


@pytest.fixture(scope="module")
def with_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = Log(tmp_path_factory.mktemp("known") / "log")
    with served(log) as started:
        yield started
    log.close()


@pytest.fixture(scope="module")
def without_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = Log(tmp_path_factory.mktemp("unknown") / "log")
    with served(log) as started:
        started.lane.known_heads = NoMemory()
        yield started
    log.close()


def knowing(started: Served, *requests: bytes) -> Served:
    """The same, with the heads of these requests and no others in its memory."""
    started.lane.known_heads.clear()
    for request in requests:
        started.connect().feed(request)
    return started


def test_a_head_is_known_once_its_request_was_answered(with_memory: Served) -> None:
    knowing(with_memory, WHOLE, HEALTH, UPGRADE)

    assert list(with_memory.lane.known_heads) == [HEAD, HEALTH, UPGRADE[: -len(GOOD)]]


@pytest.mark.parametrize("request_", [LAST, OLD], ids=["close", "HTTP/1.0"])
def test_the_last_request_of_a_connection_is_known_on_the_next(
    with_memory: Served, without_memory: Served, request_: bytes
) -> None:
    expected = without_memory.connect().feed(request_)
    connection = knowing(with_memory, request_).connect()

    assert len(with_memory.lane.known_heads) == 1
    assert connection.feed(request_) == expected
    assert connection.transport.closing
    assert connection.feed(request_) == b""


AFTERWARDS = {
    "the same body": (WHOLE,),
    "another body": (HEAD + OTHER,),
    "a wrong body": (HEAD + WRONG,),
    "no JSON": (HEAD + b"x" * len(GOOD),),
    "a body that is cut": (HEAD + GOOD[:7], GOOD[7:]),
    "a body of its own": (HEAD, GOOD),
    "a head that is cut": (HEAD[:30], HEAD[30:] + GOOD),
    "a head cut in its end": (HEAD[:-2], HEAD[-2:] + GOOD),
    "another request behind it": (WHOLE + HEAD + OTHER,),
    "many requests behind it": (WHOLE * 5 + HEALTH * 3 + MISSING + WHOLE,),
    "half a request behind it": (WHOLE + HEAD[:9], HEAD[9:] + OTHER),
    "garbage behind it": (WHOLE + b"\0",),
    "garbage after it": (WHOLE, b"\0"),
    "blank lines before it": (b"\r\n" + WHOLE,),
    "blank lines after it": (WHOLE + b"\r\n", WHOLE),
    "blank lines between": (WHOLE, b"\r\n", WHOLE),
    "too short a body": (WHOLE[:-3], WHOLE),
    "too long a body": (WHOLE + b"   ",),
    "a body that is the same request": (
        HEAD.replace(b": %d" % len(GOOD), b": %d" % len(WHOLE)),
        WHOLE,
        WHOLE,
    ),
    "chunks that hold the same request": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"%x\r\n" % len(WHOLE),
        WHOLE,
        b"\r\n0\r\n\r\n",
        WHOLE,
    ),
    "the same request in a header": (b"GET /health HTTP/1.1\r\nHost: x\r\nNeedle: ", WHOLE),
    "the same request after a request line": (b"GET /health HTTP/1.1\r\n", WHOLE),
    "the same request after a blank": (b" ", WHOLE),
    "the same request while another is answered": (MISSING, WHOLE),
    "no body where one was": (HEAD, HEALTH),
    "a body where none was": (HEALTH + GOOD,),
}


@pytest.mark.parametrize("pieces", AFTERWARDS.values(), ids=AFTERWARDS)
def test_a_known_head_changes_no_answer(with_memory: Served, without_memory: Served, pieces: tuple[bytes, ...]) -> None:
    expected = without_memory.connect().feed(*pieces)

    assert knowing(with_memory, WHOLE, HEALTH).connect().feed(*pieces) == expected
    assert expected.startswith(b"HTTP/1.1 ") or not expected


@given(
    messages=st.lists(
        st.sampled_from(
            [WHOLE, HEAD + OTHER, HEAD + WRONG, HEALTH, LAST, OLD, UPGRADE, MISSING, b"\r\n", HEAD, GOOD, b"G", b"\0"]
        ),
        max_size=8,
    ),
    sizes=st.lists(st.integers(1, 2 * len(WHOLE)), max_size=8),
)
def test_no_memory_changes_any_answer(
    with_memory: Served, without_memory: Served, messages: list[bytes], sizes: list[int]
) -> None:
    sent = b"".join(messages)
    cuts = [0, *(at for at in accumulate(sizes) if at < len(sent)), len(sent)]
    pieces = [sent[start:end] for start, end in pairwise(cuts)]
    connection = with_memory.connect()
    reference = without_memory.connect()

    for piece in pieces:
        assert connection.feed(piece) == reference.feed(piece)
        assert connection.transport.closing == reference.transport.closing


FORGETTABLE = {
    "with a request id": HEALTH[:-2] + b"X-Request-ID: mine\r\n\r\n",
    "that waits for an invitation": HEAD[:-2] + b"Expect: 100-continue\r\n\r\n" + GOOD,
    "of more than 2 KiB": HEALTH[:-2] + b"Needle: %b\r\n\r\n" % (b"n" * 2048),
    "with a body in chunks": (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)
    ),
    "that no route of the lane takes": MISSING,
    "that is refused": b"GET /health HTTP/1.1\r\n\r\n",
    "with a request behind it": HEALTH + HEALTH,
    "with half a request behind it": HEALTH + b"G",
}


@pytest.mark.parametrize("request_", FORGETTABLE.values(), ids=FORGETTABLE)
def test_a_head_is_not_remembered(with_memory: Served, request_: bytes) -> None:
    knowing(with_memory, request_)

    assert with_memory.lane.known_heads == {}


def test_a_head_that_came_in_pieces_is_not_remembered(with_memory: Served) -> None:
    knowing(with_memory)
    with_memory.connect().feed(HEAD, GOOD)

    assert with_memory.lane.known_heads == {}


def numbered(numbers: range) -> list[bytes]:
    return [HEALTH[:-2] + b"Number: %d\r\n\r\n" % number for number in numbers]


def test_the_memory_is_bounded(with_memory: Served) -> None:
    knowing(with_memory, *numbered(range(2000)))

    assert len(with_memory.lane.known_heads) <= 512


def test_heads_that_are_made_up_push_out_the_known_ones_but_rarely(
    with_memory: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = perf_counter() + 10
    monkeypatch.setattr(lane, "perf_counter", lambda: now)
    knowing(with_memory, *numbered(range(513)))  # the last finds no room, and all are forgotten
    assert with_memory.lane.known_heads == {}
    now += 0.9
    connection = with_memory.connect()
    for request in (HEALTH, *numbered(range(2000))):
        connection.feed(request)
    assert HEALTH in with_memory.lane.known_heads

    now += 0.2
    connection.feed(numbered(range(2000, 2001))[0])

    assert with_memory.lane.known_heads == {}

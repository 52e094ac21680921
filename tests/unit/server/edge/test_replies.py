import pytest
from uvicorn.server import ServerState

from tests.unit.log import Log
from tests.unit.server.behind_gate import served
from weighbridge.server.edge.replies import CLOSE, Replies


@pytest.fixture
def state() -> ServerState:
    state = ServerState()
    state.default_headers = [(b"date", b"today"), (b"x", b"y")]
    return state


@pytest.fixture
def replies(log: Log, state: ServerState) -> Replies:
    with served(log) as here:
        return Replies(here.lane.telemetry, state)


def test_a_reply_is_its_status_the_servers_headers_and_its_own(replies: Replies) -> None:
    assert replies.written((404, b"text/plain", b"none"), "id-1", CLOSE) == (
        b"HTTP/1.1 404 Not Found\r\ndate: today\r\nx: y\r\ncontent-length: 4\r\ncontent-type: text/plain\r\n"
        b"x-request-id: id-1\r\nconnection: close\r\n\r\nnone"
    )


def test_a_reply_has_the_date_that_the_server_has(replies: Replies, state: ServerState) -> None:
    before = replies.written((200, b"text/plain", b""), "id-1", "")
    state.default_headers = [(b"date", b"tomorrow"), (b"x", b"y")]

    assert replies.written((200, b"text/plain", b""), "id-1", "") == before.replace(b"today", b"tomorrow")

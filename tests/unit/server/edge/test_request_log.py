"""Whatever a client sends, the log stays JSON, a line for each request."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.wire import get
from tests.unit.log import Log
from tests.unit.server.behind_gate import Served, served
from tests.unit.server.wired import wired
from tests.waiting import until


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    log = Log(tmp_path_factory.mktemp("lines") / "log")
    yield log
    log.close()


@pytest.fixture(scope="module")
def here(log: Log) -> Iterator[Served]:
    with served(log, log_requests="all") as started:
        yield started


def logged(log: Log, request_id: str) -> dict[str, Any]:
    """The line of the log for a request."""
    until(lambda: request_id in [line["request_id"] for line in log.of("request")])
    return next(line for line in log.of("request") if line["request_id"] == request_id)


@pytest.mark.parametrize(
    "request_id",
    [b'"}', b'{"a":1}', b"\xff\xfe", b"\\u000a", "\u2028".encode(), b"x" * 10_000, b"", b"\t"],
)
def test_whatever_the_request_id_a_line_of_the_log_is_one_json_object(
    log: Log, here: Served, request_id: bytes
) -> None:
    with wired(here) as connection:
        connection.send(get(b"/nothing", b"X-Request-ID: " + request_id))
        reply = connection.reply()

    assert reply.status == 404
    assert logged(log, reply["x-request-id"])["path"] == "/nothing"


@pytest.mark.parametrize("path", [b'/"}', b"/%22%7D%0A", b"/{\\u000a}", b"/%1b[2J", b"/%ff", b"/" + b"n" * 8_000])
def test_whatever_the_path_a_line_of_the_log_is_one_json_object(log: Log, here: Served, path: bytes) -> None:
    with wired(here) as connection:
        connection.send(get(path))
        reply = connection.reply()

    assert reply.status == 404
    assert logged(log, reply["x-request-id"])["path"] == path[:200].decode()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\r\n\r\n\x00",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\n x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_leaves_no_traceback(log: Log, here: Served, nonsense: bytes) -> None:
    with wired(here) as connection:
        connection.send(nonsense)
        reply = connection.reply()

    assert reply.status == 400
    assert "exception" not in logged(log, reply["x-request-id"])

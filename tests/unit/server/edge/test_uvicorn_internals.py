"""What the edge and the admin listener build on that uvicorn and httptools do not promise.

When one of these tests fails, the library has moved: read what it changed there, mend weighbridge.server, and only then
these lists and the pin in pyproject.toml.
"""

import asyncio
from collections.abc import Iterator
from importlib.metadata import version
from inspect import signature

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

from tests.unit.log import Log
from tests.unit.server.behind_gate import Connection, served

PINNED = "0.54"
MISSING = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"

OVERRIDDEN = {  # by the admin listener
    "__init__": ("self", "config", "server_state", "app_state", "_loop"),
    "connection_made": ("self", "transport"),
    "connection_lost": ("self", "exc"),
    "data_received": ("self", "data"),
    "eof_received": ("self",),
    "send_400_response": ("self", "msg"),
}
OF_A_SERVER = {"connections": set, "tasks": set, "default_headers": list}
MAKE_A_CYCLE = (
    "scope",
    "transport",
    "flow",
    "logger",
    "access_logger",
    "access_log",
    "default_headers",
    "message_event",
    "expect_100_continue",
    "keep_alive",
    "on_response",
)
OF_A_CYCLE = {
    "body": bytearray,
    "disconnected": bool,
    "keep_alive": bool,
    "message_event": object,
    "more_body": bool,
}


MOVED = f"uvicorn {version('uvicorn')} has moved what weighbridge.server builds on, see {__name__}: "


@pytest.fixture
def connection(log: Log) -> Iterator[Connection]:
    """A connection on which the application has begun a request."""
    with served(log) as started:
        connection = started.connect()
        connection.protocol.data_received(MISSING)
        yield connection
        connection.settle()


def test_uvicorn_is_the_version_whose_inside_is_known() -> None:
    assert version("uvicorn").startswith(f"{PINNED}."), MOVED + "on as a whole"


@pytest.mark.parametrize(("name", "parameters"), OVERRIDDEN.items(), ids=OVERRIDDEN)
def test_the_protocol_has_the_methods_that_ours_override(name: str, parameters: tuple[str, ...]) -> None:
    method = getattr(HttpToolsProtocol, name, None)

    assert method, MOVED + f"HttpToolsProtocol.{name}"
    assert tuple(signature(method).parameters) == parameters, MOVED + f"the parameters of HttpToolsProtocol.{name}"


@pytest.mark.parametrize(("name", "kind"), OF_A_SERVER.items(), ids=OF_A_SERVER)
def test_a_server_has_the_members_that_ours_use(name: str, kind: type) -> None:
    assert isinstance(getattr(ServerState(), name, None), kind), MOVED + f"ServerState.{name}"


def test_a_request_in_hand_is_made_as_before() -> None:
    assert tuple(signature(RequestResponseCycle).parameters) == MAKE_A_CYCLE, MOVED + "RequestResponseCycle.__init__"


@pytest.mark.parametrize(("name", "kind"), OF_A_CYCLE.items(), ids=OF_A_CYCLE)
def test_a_request_in_hand_has_the_members_that_ours_use(connection: Connection, name: str, kind: type) -> None:
    cycle = connection.protocol._conversation._serving

    assert isinstance(getattr(cycle, name, None), kind), MOVED + f"RequestResponseCycle.{name}"


@pytest.mark.parametrize("name", ["pause_reading", "resume_reading", "pause_writing", "resume_writing"])
def test_flow_control_is_asked_as_before(name: str) -> None:
    assert callable(getattr(FlowControl, name, None)), MOVED + f"FlowControl.{name}"


def test_flow_control_says_whether_writing_is_paused(connection: Connection) -> None:
    assert connection.protocol._flow.write_paused is False, MOVED + "FlowControl.write_paused"


def test_a_status_line_is_found_by_its_status() -> None:
    assert STATUS_LINE[404] == b"HTTP/1.1 404 Not Found\r\n", MOVED + "STATUS_LINE"


@pytest.mark.parametrize("name", ["startup", "capture_signals", "run"])
def test_the_server_has_the_methods_that_ours_use(name: str) -> None:
    assert callable(getattr(Server, name, None)), MOVED + f"Server.{name}"


@pytest.mark.parametrize("name", ["should_exit", "force_exit"])
def test_the_server_is_ended_as_before(name: str) -> None:
    server = Server(uvicorn.Config("nothing:app", log_config=None))

    assert getattr(server, name, None) is False, MOVED + f"Server.{name}"


def test_the_servers_headers_are_a_new_list_whenever_they_change() -> None:
    server = Server(uvicorn.Config("nothing:app", log_config=None))
    asyncio.run(server.on_tick(0))
    before = server.server_state.default_headers
    asyncio.run(server.on_tick(10))

    assert [name for name, _ in before] == [b"date"], MOVED + "ServerState.default_headers"
    assert server.server_state.default_headers is not before, MOVED + "ServerState.default_headers"


class Raising:
    """Callbacks of a parser, the first of which raises."""

    error = ValueError("expected to be found again")

    def on_message_begin(self) -> None:
        raise self.error


class Silent:
    """Callbacks of a parser that do nothing."""

    def on_message_begin(self) -> None:
        """Do nothing."""


def test_an_error_in_a_parsers_callback_is_the_context_of_the_parsers() -> None:
    with pytest.raises(httptools.HttpParserCallbackError) as caught:
        httptools.HttpRequestParser(Raising()).feed_data(MISSING)

    assert caught.value.__context__ is Raising.error


def test_an_upgrade_says_where_the_head_ends() -> None:
    head = b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as caught:
        httptools.HttpRequestParser(Silent()).feed_data(head + b"rest")

    assert caught.value.args == (len(head),)


def test_the_parser_tells_a_version_that_it_does_not_know_from_what_is_no_request() -> None:
    with pytest.raises(httptools.HttpParserError, match="HTTP version"):
        httptools.HttpRequestParser(Silent()).feed_data(MISSING.replace(b"1.1", b"2.5"))
    with pytest.raises(httptools.HttpParserError, match=r"^(?!.*HTTP version)"):
        httptools.HttpRequestParser(Silent()).feed_data(b"\0")

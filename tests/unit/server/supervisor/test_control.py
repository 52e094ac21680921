import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.unit.server.administered import Admin, FakeFleet, FakeOperator, Reply, administered, read_to_the_end
from tests.unit.server.behind_gate import FakeTransport
from tests.waiting import until
from weighbridge.application.catalogue import Calls, ModelEntry, VersionEntry, VersionState
from weighbridge.domain.errors import ModelNotFound, ModelRefused, NothingToRollBack, VersionNotFound
from weighbridge.server.catalogue import Catalogue, Stopping
from weighbridge.server.supervisor.control import ControlPlane, WorkerReport, _Connection

CREDENTIAL = "sixteen-characters"
PATHS = ("/", "/livez", "/readyz", "/metrics", "/workers", "/runners", "/models")


class BrokenFleet(FakeFleet):
    def workers(self) -> list[WorkerReport]:
        raise RuntimeError("secret")


@pytest.fixture
def admin() -> Iterator[Admin]:
    """An admin listener without a token."""
    with administered(FakeFleet()) as admin:
        yield admin


@pytest.fixture
def guarded() -> Iterator[Admin]:
    """An admin listener with a token."""
    with administered(FakeFleet(), CREDENTIAL) as admin:
        yield admin


# What it answers


def test_livez_says_that_the_process_runs_even_when_it_is_not_ready(admin: Admin) -> None:
    admin.fleet.reason = "starting"

    reply = admin.ask("/livez")

    assert (reply.status, reply.json) == (200, {"status": "live"})


def test_readyz_says_when_requests_may_come(admin: Admin) -> None:
    reply = admin.ask("/readyz")

    assert (reply.status, reply.json) == (200, {"status": "ready"})


def test_readyz_says_why_it_is_not_ready(admin: Admin) -> None:
    admin.fleet.reason = "draining"

    reply = admin.ask("/readyz", "X-Request-ID: probe-1")

    assert reply.status == 503
    assert reply.headers["content-type"] == "application/problem+json"
    assert (reply.json["code"], reply.json["detail"], reply.json["request_id"]) == ("not_ready", "draining", "probe-1")


def test_metrics_are_the_fleets_in_the_format_of_prometheus(admin: Admin) -> None:
    reply = admin.ask("/metrics")

    assert (reply.status, reply.body) == (200, b"up 1\n")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_workers_is_a_list_of_the_reports(admin: Admin) -> None:
    assert admin.ask("/workers").json == [
        {
            "pid": 7,
            "state": "ready",
            "age_seconds": 1.5,
            "connections": 2,
            "restarts": 1,
            "reason": "killed by SIGKILL",
        }
    ]


def test_runners_is_a_list_of_the_reports(admin: Admin) -> None:
    assert admin.ask("/runners").json == [
        {
            "model": "m",
            "version": "2",
            "runner": 1,
            "pid": 8,
            "age_seconds": 2.5,
            "calls": 10,
            "rows": 90,
            "busy_seconds": 0.75,
        }
    ]


def test_the_index_links_to_all_there_is(admin: Admin) -> None:
    index = admin.ask("/").json

    assert index["name"] == "weighbridge"
    assert {"/", *index["links"].values()} == set(PATHS)
    assert all(admin.ask(path).status == 200 for path in index["links"].values())


@pytest.mark.parametrize("path", PATHS)
def test_head_gives_the_head_of_the_reply_alone(admin: Admin, path: str) -> None:
    of_get, of_head = admin.ask(path), admin.ask(path, method="HEAD")

    assert of_head.body == b""
    assert (of_head.status, of_head.headers["content-length"]) == (200, of_get.headers["content-length"])


@pytest.mark.parametrize("path", ["/nothing", "/livez/", "//livez", "/workers/7?all", "/WORKERS"])
def test_a_path_that_there_is_not_is_a_problem(admin: Admin, path: str) -> None:
    reply = admin.ask(path)

    assert (reply.status, reply.json["code"]) == (404, "not_found")
    assert reply.headers["x-request-id"] == reply.json["request_id"]


def test_a_query_does_not_change_what_a_path_means(admin: Admin) -> None:
    assert admin.ask("/livez?from=probe").status == 200


def test_another_method_is_told_those_that_the_path_takes(admin: Admin) -> None:
    reply = admin.ask("/workers", "Content-Length: 0", method="POST")

    assert (reply.status, reply.json["code"], reply.headers["allow"]) == (405, "method_not_allowed", "GET, HEAD")


def test_a_failure_is_reported_and_its_cause_not_told() -> None:
    with administered(BrokenFleet()) as admin:
        reply = admin.ask("/workers")

        assert (reply.status, reply.json["code"]) == (500, "internal_error")
        assert b"secret" not in reply.body
        [(exc, request_id)] = admin.failures
        assert (str(exc), request_id) == ("secret", reply.headers["x-request-id"])
        assert admin.ask("/livez").status == 200


def test_of_two_request_ids_none_is_taken(admin: Admin) -> None:
    reply = admin.ask("/livez", "X-Request-ID: one", "X-Request-ID: two")

    assert reply.headers["x-request-id"] not in {"one", "two"}


# Models

OPERATIONS = {
    "/models/m/versions/2/activate": ("activate", "m", "2"),
    "/models/m/rollback": ("rollback", "m"),
    "/models/m/reload": ("reload", "m"),
}


CALLS = Calls("runner", 2, requests_share_calls=True, call_seconds=0.001, row_seconds=0.0001)


def test_models_is_the_catalogue(admin: Admin) -> None:
    versions = (VersionEntry("1", VersionState.REFUSED, "it is broken"), VersionEntry("2", VersionState.LIVE))
    admin.operator.catalogue = Catalogue({}, {"m": ModelEntry("m", "2", None, versions, "1 is broken", CALLS)})

    assert admin.ask("/models").json == [
        {
            "name": "m",
            "live": "2",
            "previous": None,
            "versions": [
                {"version": "1", "state": "refused", "reason": "it is broken"},
                {"version": "2", "state": "live", "reason": None},
            ],
            "reason": "1 is broken",
            "calls": {
                "placement": "runner",
                "instances": 2,
                "requests_share_calls": True,
                "call_seconds": 0.001,
                "row_seconds": 0.0001,
            },
        }
    ]


@pytest.mark.parametrize("path", OPERATIONS)
@pytest.mark.parametrize("lines", [(), ("Content-Length: 900",), ("Content-Length: 9", "Expect: 100-continue")])
def test_an_operation_tells_what_became_of_it_whatever_body_there_is(
    admin: Admin, path: str, lines: tuple[str, ...]
) -> None:
    reply = admin.ask(path, *lines, method="POST")

    assert (reply.status, reply.json) == (200, {"model": "m", "live": "2", "previous": "1", "persisted": False})
    assert admin.operator.asked == [OPERATIONS[path]]


@pytest.mark.parametrize("path", OPERATIONS)
@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ModelNotFound(), 404, "model_not_found"),
        (VersionNotFound(), 404, "version_not_found"),
        (NothingToRollBack(), 409, "nothing_to_roll_back"),
        (ModelRefused("models/m/2/model.toml: it is broken"), 422, "model_refused"),
        (Stopping(), 503, "not_ready"),
    ],
)
def test_an_operation_that_fails_says_why(admin: Admin, path: str, failure: Exception, status: int, code: str) -> None:
    admin.operator.failure = failure

    reply = admin.ask(path, method="POST")

    assert (reply.status, reply.json["code"]) == (status, code)
    assert reply.json["detail"] == (str(failure) or "draining")


def test_an_operation_may_take_longer_than_anything_else(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weighbridge.server.supervisor.control._PATIENCE_SECONDS", 0.05)
    admin.operator.done.clear()
    with admin.connect() as connection:
        connection.sendall(b"POST /models/m/reload HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert admin.send(b"") == b""  # a younger connection is cut already, for its silence
        admin.operator.done.set()

        assert Reply(read_to_the_end(connection)).status == 200


def test_the_end_waits_for_an_operation_though_nobody_else_does() -> None:
    with administered(FakeFleet()) as admin:
        admin.operator.done.clear()
        with admin.connect() as connection:
            connection.sendall(b"POST /models/m/reload HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: admin.operator.asked)
        threading.Timer(0.1, admin.operator.done.set).start()

    assert admin.operator.done.is_set()


def test_a_path_of_an_operation_takes_only_post(admin: Admin) -> None:
    reply = admin.ask("/models/m/rollback")

    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    assert not admin.operator.asked


@pytest.mark.parametrize("path", ["/models/m", "/models//rollback", "/models/m/n/rollback", "/models/m%2Fn/rollback"])
def test_a_path_of_no_operation_is_not_found(admin: Admin, path: str) -> None:
    assert admin.ask(path, method="POST").status == 404


@pytest.mark.parametrize(
    "line",
    ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"],
)
def test_no_page_of_another_site_may_operate(admin: Admin, line: str) -> None:
    reply = admin.ask("/models/m/rollback", line, method="POST")

    assert (reply.status, reply.json["code"]) == (403, "forbidden")
    assert not admin.operator.asked


@pytest.mark.parametrize("line", ["Origin: http://localhost", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none"])
def test_who_asks_from_this_machine_may_operate(admin: Admin, line: str) -> None:
    assert admin.ask("/models/m/rollback", line, method="POST").status == 200


def test_a_page_of_another_site_may_read_what_is_public(admin: Admin) -> None:
    assert admin.ask("/livez", "Origin: http://evil.example").status == 200


def test_with_a_token_only_its_bearers_operate(guarded: Admin) -> None:
    of_a_page = "Origin: http://tools.example"
    refused = guarded.ask("/models/m/rollback", of_a_page, method="POST")
    bearer = f"Authorization: Bearer {CREDENTIAL}"

    assert (refused.status, guarded.operator.asked) == (401, [])
    assert guarded.ask("/models/m/rollback", of_a_page, bearer, method="POST").status == 200


# Who may ask


@pytest.mark.parametrize("path", ["/", "/metrics", "/workers", "/nothing"])
@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Authorization: Bearer",),
        ("Authorization: Bearer wrong-wrong-wrong",),
        (f"Authorization: Basic {CREDENTIAL}",),
        (f"Authorization: {CREDENTIAL}",),
        (f"Authorization: Bearer {CREDENTIAL}x",),
        ("Authorization: Bearer \xfftoken",),
    ],
)
def test_who_does_not_bear_the_token_learns_nothing(guarded: Admin, path: str, lines: tuple[str, ...]) -> None:
    reply = guarded.ask(path, *lines)

    assert (reply.status, reply.json["code"]) == (401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert CREDENTIAL.encode() not in reply.body


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_who_bears_the_token_is_let_in_by_whatever_name(guarded: Admin, scheme: str) -> None:
    reply = guarded.ask("/workers", f"Authorization: {scheme} {CREDENTIAL}", host="ml.example.com")

    assert reply.status == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_need_no_token(guarded: Admin, path: str) -> None:
    assert guarded.ask(path, host="10.0.0.7:9000").status == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1", "127.0.0.1:9000", "127.1.2.3", "[::1]:9"])
def test_without_a_token_this_machine_may_ask(admin: Admin, host: str) -> None:
    assert admin.ask("/workers", host=host).status == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:9000",
        "10.0.0.1",
        "127.0.0.1@evil.example",
        "localhost:9000, evil.example",
        "[::2]",
        "localhost:x",
    ],
)
def test_without_a_token_a_page_of_another_name_cannot_ask(admin: Admin, path: str, host: str) -> None:
    reply = admin.ask(path, host=host)

    assert (reply.status, reply.json["code"]) == (421, "misdirected")
    assert "evil" not in reply.json["detail"]


@pytest.mark.parametrize(
    "head", [b"GET /workers HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n"]
)
def test_without_a_token_there_must_be_one_host(admin: Admin, head: bytes) -> None:
    assert Reply(admin.send(head)).status == 421


# Connections


def test_a_connection_takes_one_request(admin: Admin) -> None:
    one = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"

    received = admin.send(one + one, one)

    assert received.count(b"HTTP/1.1 200 OK") == 1
    assert Reply(received).headers["connection"] == "close"


def test_what_follows_a_request_is_dropped_even_before_it_is_answered() -> None:
    head = b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"

    async def converse() -> bytes:
        app = ControlPlane(FakeFleet(), FakeOperator(), token=None, failed=print)
        transport = FakeTransport()
        connection = _Connection({}, uvicorn.Config(app, log_config=None, ws="none"), ServerState())
        connection.connection_made(transport)
        connection.data_received(head + b"body")
        connection.data_received(head)
        await asyncio.gather(*connection.tasks)
        connection.connection_lost(None)
        return transport.written

    assert asyncio.run(converse()).count(b"HTTP/1.1 405 ") == 1


def test_a_request_may_come_in_pieces(admin: Admin) -> None:
    with admin.connect() as connection:
        for byte in b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n":
            connection.send(bytes([byte]))

        assert Reply(read_to_the_end(connection)).status == 200


def test_a_client_that_sends_no_more_gets_its_reply(admin: Admin) -> None:
    with admin.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)

        assert Reply(read_to_the_end(connection)).status == 200


def test_a_client_that_ends_within_a_head_gets_nothing(admin: Admin) -> None:
    with admin.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.0\r\nHost: loc")
        connection.shutdown(socket.SHUT_WR)

        assert read_to_the_end(connection) == b""


@pytest.mark.parametrize("framing", ["Content-Length: 9000000", "Transfer-Encoding: chunked"])
def test_a_body_is_not_waited_for(admin: Admin, framing: str) -> None:
    reply = admin.ask("/workers", framing, "Expect: 100-continue", method="POST")

    assert reply.status == 405


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /%FF\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_problem_and_nothing_is_printed(
    admin: Admin, capfd: pytest.CaptureFixture[str], request_bytes: bytes
) -> None:
    reply = Reply(admin.send(request_bytes))

    assert (reply.status, reply.json["code"]) == (400, "bad_request")
    assert reply.headers["x-request-id"] == reply.json["request_id"]
    assert capfd.readouterr() == ("", "")


def test_a_request_for_another_protocol_is_answered_in_this_one(
    admin: Admin, capfd: pytest.CaptureFixture[str]
) -> None:
    assert admin.ask("/livez", "Connection: upgrade", "Upgrade: websocket").status == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_a_large_head_is_refused_whether_it_ends_or_not(admin: Admin, end: bytes) -> None:
    reply = Reply(admin.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 8192 + end))

    assert (reply.status, reply.json["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: loc"])
def test_a_connection_that_waits_is_cut(admin: Admin, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr("weighbridge.server.supervisor.control._PATIENCE_SECONDS", 0.05)

    assert admin.send(sent) == b""


def test_a_reply_that_nobody_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weighbridge.server.supervisor.control._PATIENCE_SECONDS", 0.5)
    fleet = FakeFleet()
    fleet.text = b"x" * 32_000_000  # more than the kernel keeps for a connection
    with administered(fleet) as admin, admin.connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1)  # so the reply is under way
        assert admin.send(b"") == b""  # a younger connection is cut already, for its silence

        assert len(read_to_the_end(connection)) < len(fleet.text)


def test_one_connection_too_many_cuts_the_oldest_and_is_answered(admin: Admin) -> None:
    idle = [admin.connect() for _ in range(100)]

    assert admin.ask("/livez").status == 200
    assert read_to_the_end(idle[0]) == b""
    idle[0].close()
    for connection in idle[1:]:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert Reply(read_to_the_end(connection)).status == 200
        connection.close()


def test_one_connection_too_many_cuts_none_that_waits_for_an_operation(admin: Admin) -> None:
    admin.operator.done.clear()
    with admin.connect() as operating:
        operating.sendall(b"POST /models/m/rollback HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: admin.operator.asked)
        idle = [admin.connect() for _ in range(100)]
        assert admin.ask("/livez").status == 200
        admin.operator.done.set()

        assert Reply(read_to_the_end(operating)).status == 200
    for connection in idle:
        connection.close()


def test_the_end_waits_for_no_client() -> None:
    with administered(FakeFleet()) as admin:
        silent, slow = admin.connect(), admin.connect()
        slow.sendall(b"GET /livez HT")
        assert admin.ask("/livez").status == 200  # so both have been accepted

    assert (read_to_the_end(silent), read_to_the_end(slow)) == (b"", b"")
    with pytest.raises(ConnectionRefusedError):
        admin.connect()
    silent.close()
    slow.close()


def test_it_lives_in_a_process_that_imports_nothing_that_only_workers_need() -> None:
    heavy = {"fastapi", "numpy", "dependency_injector", "starlette.routing"}
    program = f"""
import sys, weighbridge.entrypoints.serve
print(*sorted({heavy} & set(sys.modules)))
"""
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (imported.stdout, imported.stderr) == ("\n", "")

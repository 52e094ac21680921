import json
from collections.abc import Iterator

import httpx2
import pytest

from tests.contract import GOOD, JSON
from tests.integration.service import Service

MIB = 1024 * 1024
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CLOSE = b"Connection: close\r\n\r\n"


def status_and_body(reply: bytes) -> tuple[int, bytes]:
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_a_body_in_chunks_is_read(service: Service) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD) + b"0\r\n\r\n"

    reply = service.exchange(POST + b"Transfer-Encoding: chunked\r\n" + CLOSE + chunks)

    assert status_and_body(reply)[0] == 200


def test_a_body_that_comes_byte_by_byte_is_read(service: Service) -> None:
    request = POST + b"Content-Length: %d\r\n" % len(GOOD) + CLOSE + GOOD

    with service.connect() as connection:
        for byte in request:
            connection.sendall(bytes([byte]))
        reply = connection.makefile("rb").read()

    assert status_and_body(reply) == (200, b'{"prediction":-1.6875,"status":"success"}')


def spaces(size: int) -> Iterator[bytes]:
    for _ in range(size // MIB):
        yield b" " * MIB
    yield b" "


def test_a_body_over_the_limit_is_refused_by_its_length(client: httpx2.Client) -> None:
    reply = client.post("/predict", content=b" " * (16 * MIB + 1), headers=JSON)

    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")
    assert reply.json()["detail"] == "The body may have at most 16777216 bytes"


def test_a_body_over_the_limit_is_refused_without_a_length(client: httpx2.Client) -> None:
    reply = client.post("/predict", content=spaces(16 * MIB), headers=JSON)

    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")


def test_the_reply_to_head_has_no_body(service: Service) -> None:
    head = b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n"

    reply = service.exchange(head + b"GET /livez HTTP/1.1\r\nHost: x\r\n" + CLOSE)

    first, _, rest = reply.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: 42" in first
    assert rest.startswith(b"HTTP/1.1 200 ")
    assert rest.endswith(b'{"status":"live"}')


def test_requests_sent_together_are_answered_in_order(service: Service) -> None:
    asked = b"".join(
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: number-%d\r\n\r\n" % number for number in range(20)
    )

    reply = service.exchange(asked + b"GET /livez HTTP/1.1\r\nHost: x\r\n" + CLOSE)

    places = [reply.index(b"x-request-id: number-%d\r\n" % number) for number in range(20)]
    assert places == sorted(places)


def test_options_for_the_whole_server_lists_the_methods(service: Service) -> None:
    reply = service.exchange(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n" + CLOSE)

    assert status_and_body(reply) == (204, b"")
    assert b"\r\nallow: GET, HEAD, OPTIONS, POST\r\n" in reply


@pytest.mark.parametrize(
    "path",
    [
        b"//",
        b"//predict",
        b"/%00",
        b"/%ff",
        b"/..%2f",
        b"/../predict",
        b"/./predict",
        b"/predict%2f",
        b"/" + b"n" * 8_000,
        b"/docs/assets/%00",
        b"/docs/assets/%ff",
        b"/docs/assets/..%2f..%2fetc%2fpasswd",
        b"/docs/assets/../../pyproject.toml",
    ],
)
def test_odd_paths_get_the_same_404(service: Service, path: bytes) -> None:
    reply = service.exchange(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nX-Request-ID: same\r\n" + CLOSE)

    status, body = status_and_body(reply)
    assert status == 404
    assert json.loads(body) == {
        "type": "urn:weighbridge:not_found",
        "title": "No such path",
        "status": 404,
        "detail": "GET / lists the pages of the service",
        "code": "not_found",
        "request_id": "same",
    }


def test_two_request_ids_are_none(service: Service) -> None:
    reply = service.exchange(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: a1\r\nX-Request-ID: a2\r\n" + CLOSE)

    assert reply.count(b"x-request-id: ") == 1
    assert b"x-request-id: a1\r\n" not in reply
    assert b"x-request-id: a2\r\n" not in reply


def test_a_reply_does_not_name_the_server(client: httpx2.Client) -> None:
    assert "server" not in client.get("/health").headers


def test_the_docs_page_loads_from_this_host_alone(client: httpx2.Client) -> None:
    page = client.get("/docs").text

    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/docs/assets/{asset}" in page
        assert client.get(f"/docs/assets/{asset}").status_code == 200

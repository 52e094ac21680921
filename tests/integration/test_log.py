from collections.abc import Iterator

import pytest

from tests.contract import GOOD, JSON
from tests.integration.service import Service, serving
from tests.waiting import until

REQUESTS = 600  # whose lines fill the pipe of the log several times


def ask_often(service: Service) -> int:
    """How many of many requests on one connection, each of which is logged, are answered."""
    request = b"GET /" + b"n" * 150 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    return service.exchange(request * REQUESTS + last).count(b"HTTP/1.1 404 ")


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[Service, list[str]]]:
    """A service that has ended, which logged all that it could, and the ids of the requests that it answered."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 33\r\n\r\n"
    with serving(LOG_REQUESTS="all", LOG_LEVEL="debug") as service:
        with service.connect() as connection:
            connection.sendall(head + GOOD[:10])
        until(lambda: service.of("request_abandoned"))
        with service.client() as client:
            replies = [client.get("/health") for _ in range(3)]
            replies += [client.post("/predict", content=GOOD, headers=JSON | {"x-request-id": "mine"})]
        service.stop()
        yield service, [reply.headers["x-request-id"] for reply in replies]


def test_the_log_tells_of_every_request_with_its_id(told: tuple[Service, list[str]]) -> None:
    service, ids = told

    assert [line["request_id"] for line in service.of("request")] == ids
    assert ids[-1] == "mine"


def test_a_client_that_goes_away_leaves_no_traceback(told: tuple[Service, list[str]]) -> None:
    service, _ = told

    assert not any("exception" in event for event in service.events)
    assert service.complaints() == ""


def test_serving_goes_on_when_nobody_reads_the_log() -> None:
    with serving(reads_on=False, LOG_REQUESTS="all", WORKERS="0") as service:
        assert ask_often(service) == REQUESTS

        assert service.stop() == 0
        assert service.complaints() == ""


def test_serving_goes_on_when_the_reader_of_the_log_has_gone() -> None:
    with serving(reads_on=False, LOG_REQUESTS="all") as service:
        assert service.process.stdout is not None
        service.process.stdout.close()

        assert ask_often(service) == REQUESTS

        assert service.stop() == 0
        assert service.complaints() == ""

from tests.contract import GOOD, JSON
from tests.integration.service import Service, serving
from tests.waiting import until

REQUESTS = 3000


def ask_often(service: Service) -> int:
    """How many of many requests on one connection, each of which is logged, are answered."""
    request = b"GET /" + b"n" * 150 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    return service.exchange(request * REQUESTS + last).count(b"HTTP/1.1 404 ")


def test_the_log_tells_of_every_request_with_its_id() -> None:
    with serving(LOG_REQUESTS="all") as service:
        with service.client() as client:
            ids = [client.get("/health").headers["x-request-id"] for _ in range(3)]
            ids += [
                client.post("/predict", content=GOOD, headers=JSON | {"x-request-id": "mine"}).headers["x-request-id"]
            ]
        service.stop()

        assert [line["request_id"] for line in service.of("request")] == ids
        assert ids[-1] == "mine"


def test_serving_goes_on_when_nobody_reads_the_log() -> None:
    with serving(reads_on=False, LOG_REQUESTS="all") as service:
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


def test_a_client_that_goes_away_leaves_no_traceback() -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 33\r\n\r\n"

    with serving(LOG_LEVEL="debug") as service:
        with service.connect() as connection:
            connection.sendall(head + GOOD[:10])
        until(lambda: service.of("request_abandoned"))
        service.stop()

        assert not any("exception" in event for event in service.events)
        assert service.complaints() == ""

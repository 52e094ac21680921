import signal
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.contract import GOOD
from tests.integration.service import Service, read_to_the_end, serving
from tests.integration.test_admin import admin, samples
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("measured")

ANNOUNCED = (
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(GOOD)
)
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def begin(service: Service) -> socket.socket:
    """A connection on which the service waits for the body of a request."""
    connection = service.connect()
    connection.sendall(ANNOUNCED)
    assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
    return connection


class Draining(NamedTuple):
    """A service that drains, a connection that it has had from before, and its setting `workers`."""

    service: Service
    kept: socket.socket
    processes: str


@pytest.fixture(params=["0", "1"], ids=["one process", "a worker"])
def processes(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, "1"), (signal.SIGINT, "0")], ids=["a worker", "one process"]
)
def test_a_signal_ends_the_service_normally_though_a_connection_is_idle(number: int, workers: str) -> None:
    with serving(WORKERS=workers) as service, service.client() as client:
        client.get("/health")
        assert service.stop(number) == 0

        events = [event["event"] for event in service.events if event["event"] != "worker_started"]
        assert sorted(events[:-1]) == ["admin_listening", "listening", "service_started"]  # by threads of their own
        assert events[-1] == "service_stopped"
        assert service.complaints() == ""


def test_a_request_in_hand_is_finished(processes: str) -> None:
    with serving(measured=False, WORKERS=processes) as service, begin(service) as connection:
        service.process.send_signal(signal.SIGTERM)
        until(service.refuses)
        connection.sendall(GOOD)
        reply = read_to_the_end(connection)

        assert service.wait() == 0
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
        assert reply.endswith(b'{"prediction":-1.6875,"status":"success"}')
        assert service.of("service_stopped")


def test_a_second_signal_does_not_wait_for_requests_in_hand(processes: str) -> None:
    with serving(WORKERS=processes) as service, begin(service):
        service.process.send_signal(signal.SIGTERM)
        until(service.refuses)

        assert service.stop() == 0


@pytest.fixture(scope="module", params=["0", "1"], ids=["one process", "a worker"])
def draining(request: pytest.FixtureRequest) -> Iterator[Draining]:
    """A service that drains for as long as it is not told a second time."""
    with serving(WORKERS=request.param, DRAIN_DELAY="1000") as service, service.connect() as kept:
        kept.sendall(HEALTH)
        kept.recv(1024)
        service.process.send_signal(signal.SIGTERM)
        with service.client() as client:
            until(lambda: client.get("/readyz").status_code == 503)
        yield Draining(service, kept, request.param)
        assert service.stop() == 0


def test_while_it_drains_it_serves_on_and_asks_clients_to_leave(draining: Draining) -> None:
    with draining.service.client() as client:
        reply = client.get("/readyz")

        assert reply.json()["detail"] == "draining"
        assert reply.headers["connection"] == "close"
        assert client.get("/health").status_code == 200


def test_a_connection_that_was_kept_ends_with_its_next_reply_while_it_drains(draining: Draining) -> None:
    draining.kept.sendall(HEALTH)

    assert b"\r\nconnection: close\r\n" in read_to_the_end(draining.kept)


def test_while_it_drains_the_admin_listener_says_so(draining: Draining) -> None:
    readiness = admin(draining.service, "/readyz")

    assert (readiness.status_code, readiness.json()["detail"]) == (503, "draining")
    assert samples(draining.service, "weighbridge_workers")["retiring",] == (1 if draining.processes == "0" else 0)

import signal
import socket

import pytest

from tests.contract import GOOD
from tests.integration.service import Service, read_to_the_end, serving
from tests.waiting import until

ANNOUNCED = (
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(GOOD)
)


def begin(service: Service) -> socket.socket:
    """A connection on which the service waits for the body of a request."""
    connection = service.connect()
    connection.sendall(ANNOUNCED)
    assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
    return connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_normally(number: int) -> None:
    with serving() as service:
        assert service.stop(number) == 0

        assert [event["event"] for event in service.events] == [
            "worker_started",
            "service_started",
            "listening",
            "service_stopped",
        ]
        assert service.complaints() == ""


def test_an_idle_connection_does_not_hold_up_the_end() -> None:
    with serving() as service, service.client() as client:
        client.get("/health")

        assert service.stop() == 0


def test_a_request_in_hand_is_finished() -> None:
    with serving() as service, begin(service) as connection:
        service.process.send_signal(signal.SIGTERM)
        until(service.refuses)
        connection.sendall(GOOD)
        reply = read_to_the_end(connection)

        assert service.wait() == 0
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
        assert reply.endswith(b'{"prediction":-1.6875,"status":"success"}')
        assert service.of("service_stopped")


def test_a_second_signal_does_not_wait_for_requests_in_hand() -> None:
    with serving() as service, begin(service):
        service.process.send_signal(signal.SIGTERM)
        until(service.refuses)

        assert service.stop() == 0
        assert service.of("service_stopped")

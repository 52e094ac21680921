"""More work than there is time for: the real process, with a model that takes 5 ms for a row."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.burning import COMMAND
from tests.integration.service import Service, serving
from tests.integration.wire import Reply, Wire, get, post, wire
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("measured")

CLIENTS = 60
IN_TIME = b"X-Request-Timeout-Ms: 100"
TOO_SHORT = b"X-Request-Timeout-Ms: 1"


@pytest.fixture(scope="module")
def burning() -> Iterator[Service]:
    """The slow service, which has answered some requests already."""
    with serving(command=COMMAND, LOG_REQUESTS="all") as started:
        with wire(started) as connection:
            for _ in range(20):
                connection.send(post(b"/predict"))
                assert connection.reply().status == 200
        yield started


@pytest.fixture
def clients(burning: Service) -> Iterator[list[Wire]]:
    """Many connections, each of which has been accepted."""
    with ExitStack() as stack:
        connections = [stack.enter_context(wire(burning)) for _ in range(CLIENTS)]
        for connection in connections:
            connection.send(get(b"/livez"))
            connection.reply()
        yield connections


@contextmanager
def stopped(service: Service) -> Iterator[None]:
    """What is sent meanwhile arrives all at once."""
    [worker] = (int(event["pid"]) for event in service.of("worker_started"))
    os.kill(worker, signal.SIGSTOP)
    try:
        until(lambda: Path(f"/proc/{worker}/stat").read_text().rpartition(") ")[2].startswith("T"))
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def replies_to(request: bytes, service: Service, clients: list[Wire]) -> list[Reply]:
    """What comes back when all clients ask together."""
    with stopped(service):
        for client in clients:
            client.send(request)
    return [client.reply() for client in clients]


def test_of_more_requests_than_there_is_time_for_some_are_answered_in_time_and_the_others_told_so(
    burning: Service, clients: list[Wire]
) -> None:
    replies = replies_to(post(b"/predict", IN_TIME), burning, clients)

    statuses = Counter(reply.status for reply in replies)
    assert statuses[200] >= 1
    assert statuses[503] >= CLIENTS // 2
    assert statuses[200] + statuses[503] + statuses[504] == CLIENTS
    refused = [reply for reply in replies if reply.status == 503]
    assert {reply.code for reply in refused} == {"overloaded"}
    assert {reply["retry-after"] for reply in refused} == {"1", "2", "3"}
    assert not any(reply.values("connection") for reply in replies)


def test_a_connection_on_which_a_request_was_refused_goes_on(burning: Service, clients: list[Wire]) -> None:
    replies_to(post(b"/predict", IN_TIME), burning, clients)

    assert {reply.status for reply in replies_to(get(b"/health"), burning, clients)} == {200}


def test_with_time_enough_all_are_answered(burning: Service, clients: list[Wire]) -> None:
    assert {reply.status for reply in replies_to(post(b"/predict"), burning, clients)} == {200}


def test_a_probe_is_answered_while_predictions_wait(burning: Service, clients: list[Wire]) -> None:
    *others, probe = clients
    with stopped(burning):
        for n, client in enumerate(others):
            client.send(post(b"/predict", b"X-Request-ID: many-%d" % n))
        probe.send(get(b"/livez", b"X-Request-ID: many-probe"))
    assert {client.reply().status for client in clients} == {200}

    until(lambda: len(of_many(burning)) == CLIENTS)
    assert of_many(burning)[0] == "many-probe"


def of_many(service: Service) -> list[str]:
    """The requests of the test above, in the order of their replies."""
    return [line["request_id"] for line in service.of("request") if line["request_id"].startswith("many-")]


@pytest.mark.parametrize("target", [b"/predict", b"/predict?x=1"], ids=["fast lane", "ordinary road"])
def test_a_prediction_that_takes_longer_than_its_client_waits_is_late(burning: Service, target: bytes) -> None:
    with wire(burning) as connection:
        connection.send(post(target, TOO_SHORT) + post(target))
        late = connection.reply()

        assert (late.status, late.code) == (504, "deadline_exceeded")
        assert connection.reply().status == 200


def test_replies_keep_their_order_though_some_requests_wait_and_others_do_not(burning: Service) -> None:
    targets = [b"/predict", b"/health", b"/predict?x=1", b"/predict", b"/nothing", b"/livez", b"/predict"]
    with wire(burning) as connection:
        connection.send(b"".join(post(target, b"X-Request-ID: n%d" % n) for n, target in enumerate(targets)))

        assert [connection.reply()["x-request-id"] for _ in targets] == [f"n{n}" for n in range(len(targets))]


def test_what_waits_when_the_service_is_stopped_is_answered(burning: Service, clients: list[Wire]) -> None:
    with stopped(burning):
        for client in clients:
            client.send(post(b"/predict"))
    assert clients[0].reply().status == 200
    burning.process.terminate()

    assert {client.reply().status for client in clients[1:]} == {200}
    assert burning.wait() == 0

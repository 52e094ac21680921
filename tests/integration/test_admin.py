"""What the admin listener tells of the real processes: exact counts, and answers while every worker stands still."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract import GOOD
from tests.integration.service import PLAIN, Service, serving
from tests.integration.wire import get, post, wire
from tests.waiting import DEADLINE, until

Labels = tuple[str, ...]
"""Route, model, version, outcome and status."""

TOKEN = 16 * "t"
PREDICTED = ("/predict", "default", "embedded", "success", "200")
ASKED: list[tuple[bytes, int, Labels]] = [
    (post(b"/predict"), 7, PREDICTED),
    (post(b"/predict", body=b"{}"), 3, ("/predict", "default", "embedded", "refused", "422")),
    (get(b"/health"), 5, ("/health", "", "", "success", "200")),
    (get(b"/docs/assets/favicon.png"), 1, ("/docs/assets/{name}", "", "", "success", "200")),
    (get(b"/docs/assets/nothing"), 2, ("/docs/assets/{name}", "", "", "refused", "404")),
    (get(b"/nothing"), 2, ("other", "", "", "refused", "404")),
    (get(b"/health", version=b"2.5"), 2, ("other", "", "", "failed", "505")),
]


def admin(service: Service, path: str) -> httpx2.Response:
    return httpx2.get(f"{service.admin_url}{path}", timeout=DEADLINE, verify=PLAIN)


def samples(service: Service, name: str) -> dict[Labels, float]:
    """The samples of one name, by the values of their labels."""
    families = text_string_to_metric_families(admin(service, "/metrics").text)
    return {
        tuple(labels.values()): value
        for family in families
        for name_of, labels, value, *_ in family.samples
        if name_of == name
    }


def requests(service: Service) -> Counter[Labels]:
    names = ("route", "model", "version", "outcome", "status")
    families = text_string_to_metric_families(admin(service, "/metrics").text)
    return Counter(
        {
            tuple(labels[name] for name in names): int(value)
            for family in families
            for name_of, labels, value, *_ in family.samples
            if name_of == "weighbridge_requests_total"
        }
    )


def held(service: Service) -> list[int]:
    """How many connections each worker has."""
    return [report["connections"] for report in admin(service, "/workers").json()]


def all_are_given_connections(service: Service) -> None:
    """Wait until every worker that stood still is known to go on."""
    with ExitStack() as connections:
        until(lambda: connections.enter_context(wire(service)) and all(held(service)))


def ask(service: Service, request: bytes) -> None:
    with wire(service) as connection:
        connection.send(request)
        connection.reply()


@pytest.fixture(scope="module")
def one_process() -> Iterator[Service]:
    """The service in one process; tests that leave it as it was share it."""
    with serving(WORKERS="0") as started:
        yield started


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Service]:
    """The service with two workers that may stand still; tests that leave it as it was share it."""
    with serving(WORKERS="2", HANG_TIMEOUT="1000") as started:
        yield started


@pytest.mark.parametrize("processes", ["one_process", "two_workers"])
def test_every_request_is_counted_once_whichever_process_answered_it(
    processes: str, request: pytest.FixtureRequest
) -> None:
    service: Service = request.getfixturevalue(processes)
    expected = requests(service)
    for sent, times, labels in ASKED:
        for _ in range(times):
            ask(service, sent)
        expected[labels] += times

    assert requests(service) == expected


@pytest.fixture(scope="module")
def mortal() -> Iterator[Service]:
    """The service with one worker that tests end."""
    with serving() as started:
        yield started


def test_what_a_killed_worker_has_counted_stays_in_the_sums(mortal: Service) -> None:
    for _ in range(5):
        ask(mortal, post(b"/predict"))
    os.kill(int(mortal.of("worker_started")[0]["pid"]), signal.SIGKILL)
    for _ in range(5):
        ask(mortal, post(b"/predict"))

    assert requests(mortal)[PREDICTED] == 10
    assert samples(mortal, "weighbridge_worker_restarts_total") == {
        ("exited",): 0,
        ("killed",): 1,
        ("hung",): 0,
    }


def test_what_a_worker_that_was_replaced_has_counted_stays_in_the_sums(mortal: Service) -> None:
    before = requests(mortal)[PREDICTED]
    ask(mortal, post(b"/predict"))
    mortal.process.send_signal(signal.SIGHUP)
    until(lambda: mortal.of("reloaded"))
    ask(mortal, post(b"/predict"))

    assert requests(mortal)[PREDICTED] == before + 2


def last_started(service: Service) -> int:
    return int(service.of("worker_started")[-1]["pid"])


def died(service: Service) -> list[int]:
    return [int(event["pid"]) for event in service.of("worker_died")]


def test_while_a_worker_keeps_dying_it_is_not_ready_and_says_why(mortal: Service) -> None:
    for _ in range(3):
        until(lambda: last_started(mortal) not in died(mortal))
        os.kill(last_started(mortal), signal.SIGKILL)
        until(lambda: last_started(mortal) in died(mortal))
    detail = admin(mortal, "/readyz").json()["detail"]

    assert detail == "starting; worker 0: was killed by SIGKILL"
    assert samples(mortal, "weighbridge_workers")["waiting",] == 1


def test_the_workers_are_told_with_their_connections(two_workers: Service) -> None:
    until(lambda: not any(held(two_workers)))
    with ExitStack() as connections:
        for _ in range(4):
            connection = connections.enter_context(wire(two_workers))
            connection.send(get(b"/health"))
            connection.reply()
        reports = admin(two_workers, "/workers").json()

    assert [report["pid"] for report in reports] == [event["pid"] for event in two_workers.of("worker_started")]
    assert {(report["state"], report["connections"], report["restarts"]) for report in reports} == {("ready", 2, 0)}
    for report, event in zip(reports, two_workers.of("worker_started"), strict=True):
        age = datetime.now(UTC) - datetime.fromisoformat(event["timestamp"])
        assert 0 < report["age_seconds"] < age.total_seconds() + 1


def test_the_one_process_tells_of_itself(one_process: Service) -> None:
    [report] = admin(one_process, "/workers").json()

    assert (report["pid"], report["state"], report["reason"]) == (one_process.process.pid, "ready", None)
    assert admin(one_process, "/readyz").status_code == 200


def test_the_one_process_serves_on_when_it_is_asked_to_reload(one_process: Service) -> None:
    one_process.process.send_signal(signal.SIGHUP)

    ask(one_process, get(b"/health"))
    assert admin(one_process, "/readyz").status_code == 200


def test_it_answers_while_every_worker_stands_still(two_workers: Service) -> None:
    pids = [int(event["pid"]) for event in two_workers.of("worker_started")]
    with ExitStack() as going_on:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            going_on.callback(os.kill, pid, signal.SIGCONT)
        assert admin(two_workers, "/readyz").status_code == 200
        assert admin(two_workers, "/livez").status_code == 200
        assert len(samples(two_workers, "weighbridge_connections")) == 2
        assert len(admin(two_workers, "/workers").json()) == 2
    until(lambda: admin(two_workers, "/readyz").status_code == 200)
    all_are_given_connections(two_workers)


@pytest.fixture(scope="module")
def told() -> Iterator[Service]:
    """The service whose operator has set a token, and has said how many threads libraries have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "3")
        with serving(ADMIN_TOKEN=TOKEN) as started:
            yield started


def variables_of(process: int) -> list[bytes]:
    """The environment of a process."""
    return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")


def test_with_a_token_only_its_bearers_read_the_metrics(told: Service) -> None:
    refused = admin(told, "/metrics")
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    read = httpx2.get(f"{told.admin_url}/metrics", headers=bearer, timeout=DEADLINE, verify=PLAIN)

    assert (refused.status_code, read.status_code) == (401, 200)


def test_a_worker_is_not_told_the_token(told: Service) -> None:
    assert not any(TOKEN.encode() in variable for variable in variables_of(last_started(told)))


def test_libraries_compute_in_as_many_threads_as_the_operator_says(told: Service) -> None:
    assert b"OMP_NUM_THREADS=3" in variables_of(last_started(told))


def test_it_can_be_done_without() -> None:
    with serving(ADMIN_PORT="off", WORKERS="0") as service:
        ask(service, post(b"/predict", body=GOOD))

        assert not service.of("admin_listening")

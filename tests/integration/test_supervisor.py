"""Nothing is lost: workers that are killed, stopped or replaced, and the end of their supervisor."""

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.contract import GOOD
from tests.integration.service import PLAIN, Service, serving
from tests.integration.test_admin import all_are_given_connections, held, variables_of
from tests.starving import room_for
from tests.waiting import DEADLINE, until

pytestmark = pytest.mark.usefixtures("measured")

PREDICT = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(GOOD),
    GOOD,
)
OK = b"HTTP/1.1 200 OK\r\n"


def ask(connection: socket.socket, request: bytes = PREDICT) -> bytes:
    """The reply to a request on a connection that stays open."""
    connection.sendall(request)
    received = b""
    while not received.endswith(b"}"):
        chunk = connection.recv(65536)
        assert chunk, "expected a whole reply, got the end of the connection"
        received += chunk
    return received


def workers(service: Service) -> list[int]:
    """The processes of all workers so far, in the order in which they were started."""
    return [int(event["pid"]) for event in service.of("worker_started")]


def wait_for(service: Service, event: str, count: int = 1) -> None:
    """Return when the log has so many lines of one kind."""
    until(lambda: len(service.of(event)) >= count)


def wait_until_full(service: Service) -> None:
    """Return when the supervisor knows that no worker has room."""
    _wait_until_ready(service, 503)


def wait_for_room(service: Service) -> None:
    """Return when the supervisor knows that a worker has room again."""
    _wait_until_ready(service, 200)


def _wait_until_ready(service: Service, status: int) -> None:
    with httpx2.Client(base_url=service.admin_url, verify=PLAIN) as admin:
        until(lambda: admin.get("/readyz").status_code == status)


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def living(service: Service) -> list[int]:
    """The processes of its workers."""
    return [pid for pid in workers(service) if lives(pid)]


@pytest.fixture(scope="module")
def one_worker() -> Iterator[Service]:
    """The service with one worker, whose operator says nothing of threads; tests in which none dies share it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS")
        with serving() as started:
            yield started


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Service]:
    """The service with two workers that may stand still; tests in which none dies share it."""
    with serving(measured=False, WORKERS="2", HANG_TIMEOUT="1000") as started:
        yield started


@pytest.fixture(scope="module")
def mortal() -> Iterator[Service]:
    """The service with one worker that tests end."""
    with serving(HANG_TIMEOUT="1.5") as started:
        yield started


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still; whatever happens, it goes on afterwards, if it is still there."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if lives(pid):
            os.kill(pid, signal.SIGCONT)


def test_libraries_compute_in_one_thread(one_worker: Service) -> None:
    assert b"OMP_NUM_THREADS=1" in variables_of(living(one_worker)[0])


def test_on_a_busy_core_the_supervisor_lets_its_workers_finish(one_worker: Service) -> None:
    [worker] = living(one_worker)

    assert os.sched_getscheduler(one_worker.process.pid) == os.SCHED_BATCH
    assert os.sched_getscheduler(worker) == os.SCHED_OTHER


# Workers that end


def last_death(service: Service) -> tuple[int, str]:
    death = service.of("worker_died")[-1]
    return int(death["pid"]), str(death["reason"])


def test_a_stopped_worker_is_replaced_and_what_it_never_received_goes_to_the_next(mortal: Service) -> None:
    [first] = living(mortal)
    with stopped(first), mortal.connect() as connection:
        assert ask(connection).startswith(OK)

    assert last_death(mortal) == (first, "gave no sign of life for 1.5 s")


def test_a_killed_worker_is_replaced_and_connections_wait_for_the_new_one(mortal: Service) -> None:
    [first] = living(mortal)
    os.kill(first, signal.SIGKILL)
    with mortal.connect() as connection:
        assert ask(connection).startswith(OK)

    assert last_death(mortal) == (first, "was killed by SIGKILL")
    assert first not in living(mortal)


def test_a_worker_that_keeps_dying_is_started_ever_later(mortal: Service) -> None:
    for _ in range(3):
        until(lambda: len(mortal.of("worker_started")) > len(mortal.of("worker_died")))
        with more(mortal, "worker_died"):
            os.kill(workers(mortal)[-1], signal.SIGKILL)
    delays = [float(event["restart_in"]) for event in mortal.of("worker_died")]

    assert delays[-3] < delays[-2] < delays[-1] < 2.6


def read_until_killed(connection: socket.socket) -> str:
    """Whether the connection goes on for as long as the service needs to notice a death."""
    try:
        ask(connection)
        ask(connection)
    except (ConnectionError, AssertionError):
        return "has ended"
    return "answers"


def test_kept_connections_are_spread_again_once_a_worker_was_replaced() -> None:
    with serving(WORKERS="2") as service, ExitStack() as connections:
        os.kill(workers(service)[0], signal.SIGKILL)
        wait_for(service, "worker_died")
        kept = [connections.enter_context(service.connect()) for _ in range(8)]
        for connection in kept:
            ask(connection)
        until(lambda: held(service) == [4, 4])

        assert all(ask(connection).startswith(OK) for connection in kept)


@pytest.fixture(scope="module")
def perishable() -> Iterator[Service]:
    """The service with two workers, of which tests end one, and then the supervisor."""
    with serving(measured=False, WORKERS="2") as started:
        yield started


def test_a_killed_worker_takes_only_its_own_connections_along(perishable: Service) -> None:
    with perishable.connect() as one, perishable.connect() as other:
        ask(one)
        ask(other)
        os.kill(living(perishable)[0], signal.SIGKILL)
        ends = {connection: read_until_killed(connection) for connection in (one, other)}

    assert sorted(ends.values()) == ["answers", "has ended"]


def test_no_worker_outlives_the_supervisor_and_the_port_is_free(perishable: Service) -> None:
    with perishable.connect() as connection:
        ask(connection)
        address = connection.getpeername()
        perishable.process.kill()
        perishable.wait()
        until(lambda: not living(perishable))

        socket.create_server(address).close()


def test_connections_are_given_to_the_worker_with_the_fewest(two_workers: Service) -> None:
    until(lambda: not any(held(two_workers)))
    with ExitStack() as connections:
        for _ in range(8):
            ask(connections.enter_context(two_workers.connect()))
        descriptors = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in living(two_workers)]

    assert abs(descriptors[0] - descriptors[1]) <= 1


def test_while_one_worker_stands_still_the_other_gets_all_new_connections(two_workers: Service) -> None:
    with stopped(living(two_workers)[0]):
        for _ in range(6):
            with two_workers.connect() as connection:
                assert ask(connection).startswith(OK)

        assert not two_workers.of("worker_died")
    all_are_given_connections(two_workers)


# SIGHUP


@contextmanager
def more(service: Service, event: str, count: int = 1) -> Iterator[None]:
    """At the end, wait until the log has so many more lines of one kind."""
    so_far = len(service.of(event))
    yield
    wait_for(service, event, so_far + count)


def reload(service: Service) -> None:
    """Roll the workers, and wait until that is done."""
    with more(service, "reloaded"):
        service.process.send_signal(signal.SIGHUP)


def test_a_connection_at_rest_outlives_the_worker_that_had_it(two_workers: Service) -> None:
    with two_workers.connect() as connection:
        before = ask(connection)
        old = workers(two_workers)
        reload(two_workers)
        after = ask(connection)

        assert not any(map(lives, old))
        assert before.partition(b"\r\n\r\n")[2] == after.partition(b"\r\n\r\n")[2]
        assert b"connection: close" not in after


def test_a_connection_that_changes_hands_is_kept_for_as_long_as_before() -> None:
    with serving(measured=False, HEADER_TIMEOUT="0.5") as service, service.connect() as kept:
        ask(kept)
        reload(service)
        with service.connect() as new:
            assert new.recv(1) == b""  # it was given up, since nothing came

        assert ask(kept).startswith(OK)


def test_a_request_in_hand_is_finished_by_the_worker_that_began_it(one_worker: Service) -> None:
    with one_worker.connect() as connection:
        [old] = living(one_worker)
        with more(one_worker, "reloaded"):
            connection.sendall(PREDICT[:-5])
            with more(one_worker, "service_started"):
                one_worker.process.send_signal(signal.SIGHUP)
            connection.sendall(PREDICT[-5:])
            assert connection.recv(65536).startswith(OK)

        assert not lives(old)
        assert ask(connection).startswith(OK)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of settings."""
    config = tmp_path_factory.mktemp("settings") / "weighbridge.toml"
    config.write_text("weights = [1.0]\nport = 0\n")
    return config


@pytest.fixture(scope="module")
def configured(config: Path) -> Iterator[Service]:
    """The service with the settings of the file."""
    with serving(CONFIG=str(config)) as started:
        yield started


def test_new_workers_have_the_settings_read_anew(configured: Service, config: Path) -> None:
    with configured.client() as client:
        config.write_text("weights = [10.0]\nport = 1\nworkers = 3\n")
        reload(configured)
        assert client.post("/predict", json={"features": [2.0]}).json()["prediction"] == 20.0

    assert configured.of("settings_need_a_restart")[0]["settings"] == ["workers"]


def test_wrong_settings_are_refused_and_change_nothing(configured: Service, config: Path) -> None:
    config.write_text("weights = []\n")
    with more(configured, "reload_refused"):
        configured.process.send_signal(signal.SIGHUP)
    os.kill(living(configured)[0], signal.SIGKILL)

    assert configured.of("reload_refused")[0]["reason"].startswith(f"{config}: weights: expected a JSON array")
    with configured.connect() as connection:
        assert ask(connection).startswith(b"HTTP/1.1 400 ")


def test_a_new_worker_that_does_not_come_up_changes_nothing(one_worker: Service) -> None:
    with one_worker.connect() as connection:
        ask(connection)
        with more(one_worker, "reload_refused"):
            with more(one_worker, "worker_started"):
                one_worker.process.send_signal(signal.SIGHUP)
            os.kill(workers(one_worker)[-1], signal.SIGKILL)

        assert ask(connection).startswith(OK)
        assert not one_worker.of("worker_died")


def test_a_second_reload_waits_for_the_first(one_worker: Service) -> None:
    before = len(workers(one_worker))
    with more(one_worker, "reloaded", 2):
        with more(one_worker, "worker_started"):
            one_worker.process.send_signal(signal.SIGHUP)
        one_worker.process.send_signal(signal.SIGHUP)

    assert len(workers(one_worker)) == before + 2


# The end


def test_a_service_that_is_stopped_before_it_has_started_ends_normally() -> None:
    with serving(measured=False) as service:
        service.process.send_signal(signal.SIGHUP)
        wait_for(service, "worker_started", 2)

        assert service.stop() == 0


def test_a_request_that_takes_too_long_to_finish_is_cut() -> None:
    with serving(measured=False, DRAIN_TIMEOUT="0.3") as service, service.connect() as connection:
        connection.sendall(PREDICT[:-5])

        assert service.stop() == 0
        assert not connection.recv(1)


# Limits


@pytest.mark.parametrize("count", ["0", "1"])
def test_a_connection_beyond_the_limit_waits_until_another_ends(count: str) -> None:
    with (
        serving(WORKERS=count, MAX_CONNECTIONS="1") as service,
        service.connect() as first,
        service.connect() as second,
    ):
        ask(first)
        second.sendall(PREDICT)
        first.close()

        assert second.recv(65536).startswith(OK)


def test_without_descriptors_it_accepts_again_once_there_are_some(one_worker: Service) -> None:
    with one_worker.connect() as kept:
        ask(kept)
        with ExitStack() as waiting:
            with room_for(0, one_worker.process.pid):
                connection = waiting.enter_context(one_worker.connect())
                connection.sendall(PREDICT)
                assert ask(kept).startswith(OK)

            assert connection.recv(65536).startswith(OK)


def test_a_connection_for_which_the_worker_has_no_descriptor_waits_until_it_has_one(one_worker: Service) -> None:
    with one_worker.connect() as kept:
        ask(kept)
        with room_for(0, *living(one_worker)), one_worker.connect() as waiting:
            waiting.sendall(PREDICT)
            wait_until_full(one_worker)
            assert ask(kept).startswith(OK)
            kept.close()

            assert waiting.recv(65536).startswith(OK)
    wait_for_room(one_worker)


def test_connections_for_which_one_worker_has_no_descriptor_go_to_the_other(two_workers: Service) -> None:
    with room_for(0, living(two_workers)[0]), ExitStack() as connections:
        for _ in range(3):
            assert ask(connections.enter_context(two_workers.connect())).startswith(OK)
    all_are_given_connections(two_workers)


def test_a_worker_with_few_descriptors_gets_as_many_connections_as_it_has_room_for(one_worker: Service) -> None:
    with room_for(1, *living(one_worker)):
        with stopped(one_worker.process.pid):  # so that it accepts all at once
            waiting = {one_worker.connect() for _ in range(3)}
            for connection in waiting:
                connection.sendall(PREDICT)
        while waiting:
            [served, *_], _, _ = select.select(waiting, [], [], DEADLINE)
            assert served.recv(65536).startswith(OK)
            served.close()
            waiting.remove(served)
    wait_for_room(one_worker)


def test_a_worker_without_descriptors_can_be_replaced(one_worker: Service) -> None:
    with room_for(0, *living(one_worker)), one_worker.connect() as waiting:
        waiting.sendall(PREDICT)
        wait_until_full(one_worker)
        reload(one_worker)

        assert waiting.recv(65536).startswith(OK)

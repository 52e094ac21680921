import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.unit.server.behind_gate import Clock
from weighbridge.application.admission import ServiceTime
from weighbridge.application.queue import Queue, Turn

MILLISECOND = 0.001
MAX_WAIT = 0.01
LOOKS = 3


class Waiters:
    """Requests in the queue, and those that were served, in order."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.loop = asyncio.new_event_loop()
        self.queue = Queue(max_wait=MAX_WAIT)
        self.served: list[str] = []

    def join(self, name: str, seconds: float, then: Callable[[], object] = lambda: None) -> Turn:
        """A request that takes `seconds`, and then does something else."""
        service_time = ServiceTime()
        service_time.mean = seconds

        def serve() -> None:
            self.served.append(name)
            self.clock.now += seconds
            then()

        return self.queue.join(service_time, serve, self.loop)

    def look(self, times: int = LOOKS) -> list[str]:
        """Who was served when the event loop has looked at its sockets so many times more; by default for one turn."""
        for _ in range(times):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        return self.served


@pytest.fixture
def waiters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiters]:
    clock = Clock(monkeypatch)
    waiters = Waiters(clock)
    yield waiters
    waiters.loop.close()


def test_nobody_is_served_before_the_loop_has_read_what_has_arrived(waiters: Waiters) -> None:
    waiters.join("first", 5 * MILLISECOND)

    assert waiters.served == []


def test_after_each_slow_request_the_loop_has_time_for_a_new_connection_and_what_it_sends(waiters: Waiters) -> None:
    for name in "abc":
        waiters.join(name, 5 * MILLISECOND)

    assert [len(waiters.look(1)) for _ in range(8)] == [1, 1, 1, 2, 2, 2, 3, 3]


def test_quick_requests_are_served_together_for_about_a_millisecond(waiters: Waiters) -> None:
    for name in "abcdef":
        waiters.join(name, 0.3 * MILLISECOND)

    assert [len(waiters.look()) for _ in range(2)] == [4, 6]


def test_a_turn_that_is_given_up_never_comes(waiters: Waiters) -> None:
    first, _ = waiters.join("first", MILLISECOND), waiters.join("second", MILLISECOND)
    waiters.queue.leave(first)

    assert waiters.look() == ["second"]


def test_a_turn_that_is_given_up_does_not_count_for_those_who_come(waiters: Waiters) -> None:
    turns = [waiters.join(name, 6 * MILLISECOND) for name in "ab"]
    assert not waiters.queue.admits(1.0)

    waiters.queue.leave(turns[1])
    assert waiters.queue.admits(1.0)


def test_who_is_served_does_not_count_for_those_who_come(waiters: Waiters) -> None:
    admitted: list[bool] = []
    waiters.join("first", 6 * MILLISECOND, lambda: admitted.append(waiters.queue.admits(1.0)))
    waiters.join("second", 6 * MILLISECOND)
    admitted.append(waiters.queue.admits(1.0))
    waiters.look()

    assert admitted == [False, True]


def test_who_joins_anew_when_served_is_served_after_the_others(waiters: Waiters) -> None:
    waiters.join("first", MILLISECOND, lambda: waiters.join("first again", MILLISECOND))
    waiters.join("second", MILLISECOND)

    assert [list(waiters.look()) for _ in range(3)][-1] == ["first", "second", "first again"]


def test_who_joins_anew_as_the_only_one_is_served_once_the_loop_has_looked_at_its_sockets(waiters: Waiters) -> None:
    waiters.join("first", MILLISECOND, lambda: waiters.join("again", MILLISECOND))

    assert [list(waiters.look()) for _ in range(3)] == [["first"], ["first", "again"], ["first", "again"]]


def test_an_error_in_one_request_does_not_stop_the_queue(waiters: Waiters) -> None:
    seen: list[object] = []
    waiters.loop.set_exception_handler(lambda _, context: seen.append(type(context["exception"])))
    waiters.join("first", MILLISECOND, [].pop)
    waiters.join("second", MILLISECOND)
    waiters.look()

    assert waiters.look() == ["first", "second"]
    assert seen == [IndexError]


def test_the_queue_sleeps_while_nobody_waits(waiters: Waiters) -> None:
    waiters.join("first", MILLISECOND)
    waiters.look()
    waiters.look()
    waiters.join("second", MILLISECOND)

    assert waiters.look() == ["first", "second"]

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.unit.server.behind_gate import Clock
from weighbridge.application.admission import Overloaded, ServiceTime
from weighbridge.application.queue import Queue, Turn

MILLISECOND = 0.001
MAX_WAIT = 0.01
LOOKS = 3
LONG = 1000.0


def service_time(seconds: float) -> ServiceTime:
    """That of requests which take so long."""
    service_time = ServiceTime()
    service_time.mean = seconds
    return service_time


class Waiters:
    """Requests in the queue, and those that were served, in order."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.loop = asyncio.new_event_loop()
        self.queue = Queue(max_wait=MAX_WAIT)
        self.served: list[str] = []

    def join(
        self,
        name: str,
        seconds: float,
        then: Callable[[], object] = lambda: None,
        later: asyncio.Future[None] | None = None,
    ) -> Turn:
        """A request that takes `seconds`, and then does something else; it is served when `later` is done."""

        def serve() -> asyncio.Future[None] | None:
            self.served.append(name)
            self.clock.now += seconds
            then()
            return later

        return self.queue.join(service_time(seconds), serve, self.loop)

    async def visit(self, name: str, seconds: float, until: asyncio.Future[None], time_left: float) -> None:
        """Wait for a turn, by the use of `Queue.turn`, and have it until the future is done."""
        async with self.queue.turn(service_time(seconds), time_left):
            self.served.append(name)
            await until

    def visiting(
        self, name: str, seconds: float = MILLISECOND, time_left: float = LONG
    ) -> tuple[asyncio.Task[None], asyncio.Future[None]]:
        """The visit as a task, which begins when the loop runs; and the future that ends it."""
        until = self.loop.create_future()
        return self.loop.create_task(self.visit(name, seconds, until, time_left)), until

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


# Requests that are served later


def test_nobody_is_served_until_one_who_is_served_later_is_done(waiters: Waiters) -> None:
    later = waiters.loop.create_future()
    waiters.join("first", 0.1 * MILLISECOND, later=later)
    waiters.join("second", 0.1 * MILLISECOND)
    assert waiters.look(20) == ["first"]
    waiters.join("third", 0.1 * MILLISECOND)
    assert waiters.look(20) == ["first"]

    later.set_result(None)
    assert waiters.look(20) == ["first", "second", "third"]


def test_when_one_who_was_served_later_is_done_the_loop_has_time_for_a_new_connection(waiters: Waiters) -> None:
    later = waiters.loop.create_future()
    waiters.join("first", MILLISECOND, later=later)
    waiters.join("second", MILLISECOND)
    waiters.look(20)
    later.set_result(None)

    assert [len(waiters.look(1)) for _ in range(5)] == [1, 1, 1, 2, 2]


def test_one_who_is_served_later_counts_for_those_who_come_until_that_is_done(waiters: Waiters) -> None:
    later = waiters.loop.create_future()
    waiters.join("first", 11 * MILLISECOND, later=later)
    waiters.look(20)
    assert not waiters.queue.admits(LONG)

    later.set_result(None)
    waiters.look(1)
    assert waiters.queue.admits(LONG)


def test_the_queue_sleeps_when_the_last_was_served_later(waiters: Waiters) -> None:
    later = waiters.loop.create_future()
    waiters.join("first", MILLISECOND, later=later)
    waiters.look(20)
    later.set_result(None)
    waiters.look(20)
    waiters.join("second", MILLISECOND)

    assert waiters.look() == ["first", "second"]


# Turns that are waited for


def test_a_turn_is_had_until_its_context_ends(waiters: Waiters) -> None:
    task, end = waiters.visiting("first")
    waiters.look(20)
    waiters.join("second", MILLISECOND)
    assert waiters.look(20) == ["first"]

    end.set_result(None)
    assert waiters.look(20) == ["first", "second"]
    assert task.done()


def test_turns_of_both_kinds_come_in_order(waiters: Waiters) -> None:
    waiters.join("first", MILLISECOND)
    _, end = waiters.visiting("second")
    end.set_result(None)
    waiters.look(1)
    waiters.join("third", MILLISECOND)

    assert waiters.look(20) == ["first", "second", "third"]


def test_who_would_wait_too_long_for_a_turn_is_refused_and_never_joins(waiters: Waiters) -> None:
    for name in "abc":
        waiters.join(name, 6 * MILLISECOND)  # one of them is served before it asks
    late, end = waiters.visiting("late")
    end.set_result(None)

    assert waiters.look(20) == ["a", "b", "c"]
    with pytest.raises(Overloaded, match=r"^The server is overloaded; retry later$"):
        late.result()
    assert waiters.queue._admission.estimated_wait == 0


def test_who_has_too_little_time_left_to_wait_for_a_turn_is_refused(waiters: Waiters) -> None:
    for name in "ab":
        waiters.join(name, 6 * MILLISECOND)
    hasty, end = waiters.visiting("hasty", time_left=0.011)
    end.set_result(None)

    assert waiters.look(20) == ["a", "b"]
    with pytest.raises(Overloaded):
        hasty.result()


def test_whoever_gives_up_waiting_for_a_turn_never_has_it_and_counts_no_longer(waiters: Waiters) -> None:
    later = waiters.loop.create_future()
    waiters.join("first", MILLISECOND, later=later)
    task, _ = waiters.visiting("second", 6 * MILLISECOND)
    waiters.look(5)
    task.cancel()
    waiters.look(5)
    assert task.cancelled()
    assert waiters.queue._admission.estimated_wait == pytest.approx(MILLISECOND)

    later.set_result(None)
    waiters.join("third", MILLISECOND)
    assert waiters.look(20) == ["first", "third"]
    assert waiters.queue._admission.estimated_wait == 0


def test_whoever_gives_up_waiting_in_the_moment_before_the_turn_comes_holds_up_nobody(waiters: Waiters) -> None:
    task, _ = waiters.visiting("first")
    waiters.look(1)  # it has joined, and its turn comes with the next look
    task.cancel()
    waiters.join("second", MILLISECOND)

    assert waiters.look(20) == ["second"]
    assert task.cancelled()
    assert waiters.queue._admission.estimated_wait == 0


def test_whoever_gives_up_waiting_in_the_moment_after_the_turn_came_holds_up_nobody(waiters: Waiters) -> None:
    task, _ = waiters.visiting("first")
    waiters.look(1)
    waiters.join("second", MILLISECOND, task.cancel)
    waiters.queue._serve_slice(waiters.loop)
    task.cancel()

    assert waiters.look(20) == ["second"]
    assert task.cancelled()
    assert waiters.queue._admission.estimated_wait == 0


def test_an_error_in_a_turn_is_the_callers_and_holds_up_nobody(waiters: Waiters) -> None:
    task, end = waiters.visiting("first")
    waiters.join("second", MILLISECOND)
    end.set_exception(IndexError())
    waiters.look(20)

    assert sorted(waiters.served) == ["first", "second"]
    assert isinstance(task.exception(), IndexError)
    assert waiters.queue._admission.estimated_wait == 0

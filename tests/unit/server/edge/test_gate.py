import asyncio
from collections.abc import Callable, Iterator
from contextvars import Context
from functools import partial
from typing import TypeVarTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from weighbridge.server.edge.gate import Gate
from weighbridge.settings import Settings

Ts = TypeVarTuple("Ts")

BUDGET = 1000
MOST_READ_FREELY = 750


class Client:
    """A connection that only notes what the gate asks of it."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.size = 0
        self.paused = False
        self.was_shed = False
        self.leaves = False
        self.swept: list[float] = []

    def hold(self, size: int) -> None:
        self.size = size
        self.gate.hold(self, size)

    def sweep(self, now: float) -> None:
        self.swept.append(now)

    def shed(self) -> None:
        self.was_shed = True
        self.hold(0)

    def shutdown(self) -> None:
        self.leaves = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class FailingClient(Client):
    def sweep(self, now: float) -> None:
        super().sweep(now)
        raise RuntimeError("expected never to be swept")


class Clock(asyncio.SelectorEventLoop):
    """A loop that is never run: it shows what it would call, and how soon."""

    next: Callable[[], object]
    delay: float

    @override
    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self.delay, self.next = delay, partial(callback, *args)
        return super().call_later(delay, callback, *args, context=context)


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.close()


@pytest.fixture
def gate() -> Gate:
    return Gate(Settings(max_buffered_bytes=BUDGET, max_body_bytes=10))


def clients(gate: Gate, *sizes: int) -> list[Client]:
    """A connection for each size, the oldest first."""
    made = [Client(gate) for _ in sizes]
    for client, size in zip(made, sizes, strict=True):
        client.hold(size)
    return made


def test_what_is_held_is_the_sum_over_all_connections(gate: Gate) -> None:
    first, second = clients(gate, 100, 200)
    first.hold(150)

    assert gate.held == 350
    second.hold(0)
    assert gate.held == 150


def test_nobody_is_paused_up_to_three_quarters_of_the_budget(gate: Gate) -> None:
    assert not any(client.paused for client in clients(gate, 250, 250, 250))


def test_whoever_holds_more_above_three_quarters_is_paused(gate: Gate) -> None:
    first, second, third = clients(gate, 250, 250, 251)

    assert [first.paused, second.paused, third.paused] == [False, False, True]


def test_the_oldest_holder_is_never_paused(gate: Gate) -> None:
    oldest, other = clients(gate, 1, 700)
    oldest.hold(100)

    assert [oldest.paused, other.paused] == [False, False]


def test_the_paused_are_resumed_when_there_is_room_again(gate: Gate) -> None:
    first, second, third = clients(gate, 250, 300, 300)
    assert third.paused

    second.hold(0)

    assert [first.paused, third.paused] == [False, False]


def test_the_paused_that_becomes_the_oldest_is_resumed(gate: Gate) -> None:
    oldest, second, third = clients(gate, 10, 800, 100)
    assert [second.paused, third.paused] == [True, True]

    oldest.hold(0)

    assert [second.paused, third.paused] == [False, True]


def test_the_paused_that_holds_nothing_any_more_is_resumed(gate: Gate) -> None:
    _, second, third = clients(gate, 700, 100, 100)
    assert [second.paused, third.paused] == [True, True]

    third.hold(0)

    assert [second.paused, third.paused] == [True, False]


def test_the_youngest_are_shed_until_the_rest_fits(gate: Gate) -> None:
    oldest, *younger = clients(gate, 300, 200, 200, 200)

    oldest.hold(700)

    assert not oldest.was_shed
    assert [client.was_shed for client in younger] == [False, True, True]
    assert gate.held == 900


def test_a_budget_smaller_than_a_body_is_that_of_a_body() -> None:
    [client] = clients(Gate(Settings(max_buffered_bytes=1, max_body_bytes=100)), 100)

    assert not client.was_shed


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, BUDGET))))
def test_whatever_is_held_stays_within_the_budget_and_the_oldest_comes_through(steps: list[tuple[int, int]]) -> None:
    gate = Gate(Settings(max_buffered_bytes=BUDGET, max_body_bytes=10))
    everyone = clients(gate, 0, 0, 0, 0, 0, 0)
    holders: list[Client] = []
    for number, size in steps:
        client = everyone[number]
        client.hold(size)
        if client not in holders:
            holders.append(client)
        holders = [holder for holder in holders if holder.size]

        assert gate.held == sum(other.size for other in everyone) <= BUDGET
        assert not holders or not holders[0].paused
        assert all(other in holders for other in everyone if other.paused)
        assert gate.held > MOST_READ_FREELY or not any(other.paused for other in everyone)


def test_every_connection_is_swept_a_few_times_a_second(gate: Gate, clock: Clock) -> None:
    first, second = clients(gate, 1, 0)
    gate.connections |= {first, second}
    gate.start(clock)
    clock.next()

    assert len(first.swept) == len(second.swept) == 2
    assert first.swept == sorted(first.swept)
    assert clock.delay <= 0.5


def test_every_sweep_is_a_sign_of_life_and_tells_what_is_buffered(gate: Gate, clock: Clock) -> None:
    clients(gate, 7)
    gate.start(clock)
    clock.next()

    assert (gate.vitals.beats, gate.vitals.buffered_bytes) == (2, 7)


def test_when_the_gate_drains_every_connection_is_asked_to_leave(gate: Gate) -> None:
    [client] = clients(gate, 0)
    gate.connections.add(client)
    gate.drain()

    assert client.leaves


def test_a_connection_that_cannot_be_swept_does_not_end_all_sweeping(gate: Gate, clock: Clock) -> None:
    client = FailingClient(gate)
    gate.connections.add(client)
    with pytest.raises(RuntimeError):
        gate.start(clock)
    gate.connections.remove(client)
    [healthy] = clients(gate, 1)
    gate.connections.add(healthy)
    clock.next()

    assert healthy.swept

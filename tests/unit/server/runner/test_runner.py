"""The loop of a runner, in a thread, with workers that ask over real sockets."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any, cast

import numpy as np
import pytest
from typing_extensions import override

from tests.unit.models import FakeModel
from tests.waiting import DEADLINE, until
from weighbridge.adapters.runners import frames
from weighbridge.adapters.runners.frames import Failure, Frame, Inbox, Word
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.errors import FeatureTooLarge
from weighbridge.domain.signature import Column, Kind, Signature
from weighbridge.server.channel import Channel
from weighbridge.server.channel import Word as Said
from weighbridge.server.runner.runner import OutOfMemory, Runner
from weighbridge.server.runner.vitals import RunnerVitals

SIGNATURE = Signature((Column(name="x", kind=Kind.INT),), (Column(name="y", kind=Kind.FLOAT),))
VECTOR = Signature((Column(name="x", kind=Kind.FLOAT, width=1),), (Column(name="y", kind=Kind.FLOAT, width=1),))


def _xs(batch: Batch) -> list[int]:
    return [x for (x,) in batch.rows]


def echo(batch: Batch) -> Outputs:
    return (np.array(_xs(batch), np.float64),)


class Asker:
    """A worker's end of a connection to a runner."""

    def __init__(self, end: socket.socket, signature: Signature) -> None:
        end.settimeout(DEADLINE)
        self.end = end
        self._signature = signature
        self._inbox = Inbox(2**32 - 1)
        self._frames: list[Frame] = []
        self._rows: dict[int, int] = {}

    def ask(self, number: int, *xs: int) -> None:
        self.ask_rows(number, [(x,) for x in xs])

    def ask_each(self, *numbers: int) -> None:
        """Requests of one row each, at once."""
        self._rows |= dict.fromkeys(numbers, 1)
        self.end.sendall(b"".join(frames.ask(number, [(number,)]) for number in numbers))

    def ask_rows(self, number: int, rows: Any) -> None:
        self._rows[number] = len(rows)
        self.end.sendall(frames.ask(number, rows))

    def drop(self, number: int) -> None:
        self.end.sendall(frames.drop(number))

    def next(self) -> Frame:
        """The next frame that the runner sends."""
        while not self._frames:
            data = self.end.recv(65536)
            assert data
            self._frames += self._inbox.feed(data)
        return self._frames.pop(0)

    def announced(self) -> tuple[int, tuple[int, ...]]:
        frame = self.next()
        assert frame.word is Word.ANNOUNCE
        return frames.announced(frame.payload)

    def answer(self) -> tuple[int, list[float] | Failure]:
        """The number of a request, and its outputs or why it failed."""
        word, number, payload = self.next()
        if word is Word.FAIL:
            return number, frames.failed(payload)
        [values] = frames.answered(payload, self._signature, self._rows[number])
        return number, values.ravel().tolist()

    def failure(self) -> Failure:
        """Why the next call of this asker, of one request, fails."""
        self.announced()
        _, failure = self.answer()
        assert isinstance(failure, Failure)
        return failure


class Gate:
    """Holds up a model until it is opened; knows how many calls have come to it."""

    def __init__(self) -> None:
        self.came = 0
        self._open = threading.Semaphore(0)

    def let(self, calls: int = 1) -> None:
        self._open.release(calls)

    def __call__(self, batch: Batch) -> Outputs:
        self.came += 1
        assert self._open.acquire(timeout=DEADLINE)
        return echo(batch)


class Running:
    """A runner in a thread; ends when its supervisor does."""

    def __init__(self, model: FakeModel, **options: Any) -> None:
        self.model = model
        self.vitals = RunnerVitals()
        self.raised: BaseException | None = None
        self._supervisor, self._control = Channel.pair()
        options = {"shares": True, "max_batch_rows": 256, "repeat": True, **options}
        self.runner = Runner(model, self._control, self.vitals, **options)
        self._ends: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.runner.run()
        except OutOfMemory as exc:
            self.raised = exc

    def asker(self) -> Asker:
        ours, theirs = socket.socketpair()
        with theirs:
            self._supervisor.send(Said.PEER, "", [theirs.fileno()])
        self._ends.append(ours)
        return Asker(ours, self.model.signature)

    def retire(self) -> None:
        self._supervisor.send(Said.RETIRE)

    def ended(self) -> bool:
        self._thread.join(DEADLINE)
        return not self._thread.is_alive()

    def close(self) -> None:
        for end in self._ends:
            end.close()
        self._supervisor.close()
        assert self.ended()
        self._control.close()
        for peer in self.runner._peers:
            peer.end.close()


@contextmanager
def running(
    predict: Callable[[Batch], Outputs] = echo, signature: Signature = SIGNATURE, **options: Any
) -> Iterator[Running]:
    with ExitStack() as stack:
        started = Running(FakeModel(signature, predict), **options)
        stack.callback(started.close)
        yield started


def calls(running: Running) -> list[list[int]]:
    """The rows of each call so far."""
    return [_xs(batch) for batch in running.model.seen]


# What goes into a call


def test_a_call_is_announced_before_it_is_made() -> None:
    gate = Gate()
    with running(gate) as runner:
        asker = runner.asker()
        asker.ask(7, 1, 2)

        assert asker.announced() == (2, (7,))
        gate.let()
        assert asker.answer() == (7, [1.0, 2.0])


def test_the_next_call_is_all_that_has_queued_meanwhile_over_all_workers() -> None:
    gate = Gate()
    with running(gate) as runner:
        one, other = runner.asker(), runner.asker()
        one.ask(1, 0)
        one.announced()
        for number in (2, 3):
            one.ask(number, number, number)
            other.ask(number, 10 * number)
        gate.let(2)

        assert one.answer() == (1, [0.0])
        assert one.announced() == (6, (2, 3))
        assert other.announced() == (6, (2, 3))
        assert [one.answer(), one.answer()] == [(2, [2.0, 2.0]), (3, [3.0, 3.0])]
        assert [other.answer(), other.answer()] == [(2, [20.0]), (3, [30.0])]
    assert [sorted(call) for call in calls(runner)] == [[0], [2, 2, 3, 3, 20, 30]]


def _queued(gate: Gate, runner: Running, sizes: Sequence[int]) -> list[int]:
    """How many rows each call has when so many were queued, one request for each number."""
    asker = runner.asker()
    asker.ask(0, 0)
    asker.announced()
    for number, size in enumerate(sizes, 1):
        asker.ask(number, *[number] * size)
    gate.let(1 + len(sizes))
    done = 0
    while done < 1 + len(sizes):
        done += asker.next().word is Word.ANSWER
    return [len(batch) for batch in runner.model.seen[1:]]


def test_a_call_has_no_more_rows_than_it_may() -> None:
    gate = Gate()
    with running(gate, max_batch_rows=4) as runner:
        assert _queued(gate, runner, [3, 1, 1, 4, 2]) == [4, 1, 4, 2]


def test_requests_share_no_call_unless_that_was_shown_to_do_no_harm() -> None:
    gate = Gate()
    with running(gate, shares=False) as runner:
        assert _queued(gate, runner, [1, 300, 1]) == [1, 300, 1]


def test_vectors_go_together_whether_they_are_lists_or_matrices() -> None:
    gate = threading.Event()

    def predict(batch: Batch) -> Outputs:
        assert gate.wait(DEADLINE)
        return (batch.matrix(),)

    with running(predict, VECTOR) as runner:
        asker = runner.asker()
        asker.ask(1, 0)
        asker.announced()
        asker.ask_rows(2, [[1.0]])
        asker.ask_rows(3, np.array([[2.0], [3.0]]))
        gate.set()

        assert asker.answer() == (1, [0.0])
        assert asker.announced() == (3, (2, 3))
        assert [asker.answer(), asker.answer()] == [(2, [1.0]), (3, [2.0, 3.0])]


def test_a_request_that_is_dropped_before_its_call_is_in_none() -> None:
    gate = Gate()
    with running(gate) as runner:
        asker = runner.asker()
        asker.ask(1, 1)
        asker.announced()
        asker.ask(2, 2)
        asker.ask(3, 3)
        asker.drop(2)
        asker.drop(1)  # too late
        gate.let(2)

        assert asker.answer() == (1, [1.0])
        assert asker.answer() == (2, Failure("dropped"))
        assert asker.announced() == (1, (3,))
        assert asker.answer() == (3, [3.0])


# What raises


class Untellable(Exception):
    """It cannot even be told."""

    @override
    def __str__(self) -> str:
        raise ZeroDivisionError

    @override
    def __getattribute__(self, name: str) -> Any:
        if name == "__suppress_context__":  # which whoever prints it looks at
            raise ZeroDivisionError
        return super().__getattribute__(name)


def raising(bad: set[int], error: Callable[[Batch], BaseException]) -> Callable[[Batch], Outputs]:
    """A model that raises for a batch with any of these rows, and is held up in its first call."""

    def predict(batch: Batch) -> Outputs:
        if bad & {*_xs(batch)}:
            raise error(batch)
        return echo(batch)

    return predict


def _answers_of_one_call(
    requests: int, predict: Callable[[Batch], Outputs], **options: Any
) -> tuple[dict[int, list[float] | Failure], int]:
    """What requests of one row each get that go into one call, by their numbers, and how many calls were made."""
    gate = threading.Event()

    def held_up_first(batch: Batch) -> Outputs:
        if _xs(batch) == [-1]:
            assert gate.wait(DEADLINE)
        return predict(batch)

    with running(held_up_first, **options) as runner:
        asker = runner.asker()
        asker.ask(1000, -1)
        asker.announced()
        asker.ask_each(*range(requests))
        gate.set()
        assert asker.answer() == (1000, [-1.0])
        assert asker.announced() == (requests, (*range(requests),))
        answers = dict(asker.answer() for _ in range(requests))
    return answers, len(runner.model.seen) - 1


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(), KeyboardInterrupt(), Untellable()])
def test_of_64_requests_in_a_call_only_the_bad_one_fails(error: BaseException) -> None:
    answers, made = _answers_of_one_call(64, raising({37}, lambda _: error))

    failure = cast("Failure", answers.pop(37))
    assert type(error).__name__ in failure.text
    assert answers == {number: [float(number)] for number in range(64) if number != 37}
    assert made == 1 + 2 * 6


@pytest.mark.parametrize("requests", [2, 3, 64, 100])
def test_calls_that_raise_are_not_repeated_without_end(requests: int) -> None:
    answers, made = _answers_of_one_call(requests, raising({*range(requests)}, lambda _: ValueError()))

    assert all(isinstance(answer, Failure) for answer in answers.values())
    assert made <= 1 + 2 * np.ceil(np.log2(requests)) + 2


def test_a_call_that_raises_is_not_repeated_where_it_may_not_be() -> None:
    answers, made = _answers_of_one_call(8, raising({5}, lambda _: ValueError("bad")), repeat=False)

    assert all(isinstance(answer, Failure) for answer in answers.values())
    assert made == 1


def too_large(batch: Batch) -> FeatureTooLarge:
    return FeatureTooLarge(most="3.4e38", column="x", row=_xs(batch).index(5) if len(batch) > 1 else None)


def test_a_number_too_large_is_told_of_the_request_that_has_it() -> None:
    answers, _ = _answers_of_one_call(8, raising({5}, too_large))

    assert cast("Failure", answers[5])[1:] == ("3.4e38", "x", None)
    assert isinstance(answers[4], list)


def test_a_number_too_large_is_told_with_its_place_in_a_request() -> None:
    with running(raising({5}, too_large)) as runner:
        asker = runner.asker()
        asker.ask(1, 4, 5, 6)

        assert asker.failure()[1:] == ("3.4e38", "x", 1)


def test_a_number_too_large_is_not_blamed_on_requests_that_were_in_the_same_call() -> None:
    answers, _ = _answers_of_one_call(8, raising({5}, too_large), repeat=False)

    assert {cast("Failure", answer)[1:] for answer in answers.values()} == {(None, None, None)}


@pytest.mark.parametrize(
    "outputs",
    [
        (np.array([1.0, 2.0]),),
        (np.array([[1.0]]),),
        (np.array([1]),),
        (np.array([1.0]), np.array([1.0])),
        ([1.0],),
        None,
    ],
)
def test_outputs_that_the_signature_does_not_state_are_a_failure(outputs: Any) -> None:
    with running(lambda _: outputs) as runner:
        asker = runner.asker()
        asker.ask(1, 1)

        assert "Error" in asker.failure().text


def test_a_runner_ends_when_a_call_needs_more_memory_than_it_may_have() -> None:
    with running(raising({1}, lambda _: MemoryError())) as runner:
        asker = runner.asker()
        asker.ask(1, 1)
        asker.announced()

        assert runner.ended()
        assert "MemoryError" in str(runner.raised)


# Workers that come, go, and read slowly


def test_a_worker_that_goes_away_takes_its_requests_with_it() -> None:
    gate = Gate()
    with running(gate) as runner:
        leaves, stays = runner.asker(), runner.asker()
        leaves.ask(1, 1)
        leaves.announced()
        leaves.ask(2, 2)
        stays.ask(3, 3)
        leaves.end.close()
        gate.let(2)

        stays.announced()
        assert stays.answer() == (3, [3.0])
    assert calls(runner) == [[1], [3]]


def test_answers_that_a_worker_is_slow_to_read_hold_up_no_other() -> None:
    with running() as runner:
        slow, other = runner.asker(), runner.asker()
        many = range(1_000_000)
        slow.ask(1, *many)
        slow.announced()
        other.ask(2, 2)
        other.announced()
        assert other.answer() == (2, [2.0])
        slow.ask(3, 3)
        other.ask(4, 4)
        other.announced()
        assert other.answer() == (4, [4.0])

        assert slow.answer() == (1, [float(x) for x in many])
        slow.announced()
        assert slow.answer() == (3, [3.0])


def test_a_worker_may_be_gone_before_it_has_read_its_answer() -> None:
    with running() as runner:
        leaves, stays = runner.asker(), runner.asker()
        leaves.ask(1, *range(1_000_000))
        leaves.end.recv(1, socket.MSG_PEEK)
        leaves.end.close()
        stays.ask(2, 2)

        stays.announced()
        assert stays.answer() == (2, [2.0])


# The end


def test_a_runner_that_retires_answers_for_as_long_as_anybody_asks() -> None:
    with running() as runner:
        asker = runner.asker()
        runner.retire()
        asker.ask(1, 1)
        asker.announced()
        assert asker.answer() == (1, [1.0])
        asker.end.close()

        assert runner.ended()


def test_a_runner_that_retires_and_that_nobody_asks_ends() -> None:
    with running() as runner:
        runner.retire()

        assert runner.ended()


def test_a_runner_ends_with_its_supervisor() -> None:
    with running() as runner:
        asker = runner.asker()
        asker.ask(1, 1)
        asker.announced()
        asker.answer()
        runner._supervisor.close()

        assert runner.ended()


# What it shows


def test_a_runner_shows_what_it_does() -> None:
    gate = Gate()
    with running(gate) as runner:
        before = monotonic()
        asker = runner.asker()
        asker.ask(1, 1, 2)
        asker.announced()
        until(lambda: gate.came)
        assert before <= runner.vitals.began <= monotonic()
        gate.let()
        asker.answer()
        until(lambda: not runner.vitals.began)

    vitals = runner.vitals
    assert (vitals.calls, vitals.rows) == (1, 2)
    assert 0 < vitals.busy < DEADLINE


def test_the_time_of_a_call_begins_anew_when_it_is_repeated() -> None:
    began: list[float] = []

    def predict(_: Batch) -> Outputs:
        began.append(runner.vitals.began)
        raise ValueError

    with running(predict) as runner:
        asker = runner.asker()
        asker.ask_each(1, 2)
        asker.announced()
        assert [asker.answer()[0] for _ in range(2)] == [1, 2]

    assert len({*began}) == len(began) == 3

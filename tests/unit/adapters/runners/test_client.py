"""A client of runners over real sockets, with runners that say what a test has them say, on both event loops."""

import asyncio
import mmap
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from struct import pack
from typing import Any, TypeVar

import numpy as np
import pytest
import uvloop

from tests.waiting import DEADLINE
from weighbridge.adapters.runners import frames
from weighbridge.adapters.runners.client import ModelRaised, RunnerClient, RunnerClients
from weighbridge.adapters.runners.frames import Failure, Frame, Inbox, Word
from weighbridge.adapters.runners.terms import Board, Terms
from weighbridge.application.admission import Overloaded
from weighbridge.domain.batch import Outputs
from weighbridge.domain.errors import FeatureTooLarge, ModelCrashed, ModelUnavailable
from weighbridge.domain.signature import Column, Kind, Signature

SIGNATURE = Signature((Column(name="x", kind=Kind.INT),), (Column(name="y", kind=Kind.FLOAT),))
TERMS = Terms(number=7, instances=1, max_batch_rows=4, shares=True, call_seconds=0.1, row_seconds=0.01)
TURNS = 12  # of the event loop; a connection is made, and whatever came is read and answered, in fewer

ResultT = TypeVar("ResultT")
Asked = list[tuple[Word, int, list[int]]]


class ScriptedRunner:
    """The runner's end of a connection."""

    def __init__(self, stage: "Stage", end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end
        self._stage = stage
        self._inbox = Inbox(2**32 - 1)

    def heard(self) -> list[Frame]:
        """The frames that have come since it last listened."""
        self._stage.settle()
        try:
            return [*self._inbox.feed(self.end.recv(65536))]
        except BlockingIOError:
            return []

    def asked(self) -> list[list[int]]:
        """The numbers of the rows of each request that has come; all that came are such requests."""
        return [self._rows(frame) for frame in self.heard()]

    def number(self) -> int:
        """The number of the one request that has come."""
        [frame] = self.heard()
        return frame.number

    def _rows(self, frame: Frame) -> list[int]:
        assert frame.word is Word.ASK
        return [x for (x,) in frames.asked(frame.payload)]

    def say(self, *said: bytes) -> None:
        self.end.sendall(b"".join(said))
        self._stage.settle()

    def answer_next(self) -> list[list[int]]:
        """Have what has come as one call, whose outputs are what was asked; the rows of its requests."""
        requests = [(frame.number, self._rows(frame)) for frame in self.heard()]
        self.say(
            frames.announce(sum(len(rows) for _, rows in requests), [number for number, _ in requests]),
            *(frames.answer(number, predicted(*rows)) for number, rows in requests),
        )
        return [rows for _, rows in requests]

    def end_itself(self) -> None:
        self.end.close()
        self._stage.settle()

    @property
    def is_hung_up_on(self) -> bool:
        """Whether the client has closed the connection."""
        self._stage.settle()
        try:
            return self.end.recv(1) == b""
        except BlockingIOError:
            return False


class Stage:
    """A client on an event loop that runs only when something is to happen."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.broken: list[tuple[int, int, str]] = []
        self.waits: list[float] = []
        self._ends: list[socket.socket] = []
        self.client = self.open()

    def open(self, **terms: Any) -> RunnerClient:
        self.client = RunnerClient(
            replace(TERMS, **terms),
            SIGNATURE,
            lambda *told: self.broken.append(told),
            max_rows=100,
            max_wait=1.0,
            waited=self.waits.append,
        )
        return self.client

    def do(self, function: Callable[[], ResultT]) -> ResultT:
        """Have something done on the loop."""

        async def done() -> ResultT:
            return function()

        return self.runner.run(done())

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(TURNS):
                await asyncio.sleep(0)

        self.runner.run(turns())

    def connect(self, instance: int = 0, board: Board | None = None) -> ScriptedRunner:
        end = self.pair()
        self.do(lambda: self.client.connect(end, instance, board or Board()))
        self.settle()
        return ScriptedRunner(self, self._ends[-1])

    def pair(self) -> socket.socket:
        """The client's end of a connection."""
        end, other = socket.socketpair()
        self._ends.append(other)
        return end

    def ask(self, *rows: int) -> "asyncio.Future[Outputs]":
        return self.do(lambda: self.client.ask([(row,) for row in rows]))

    def result(self, future: "asyncio.Future[Outputs]") -> list[Any]:
        async def outputs() -> Outputs:
            return await asyncio.wait_for(future, DEADLINE)

        [values] = self.runner.run(outputs())
        return list(values.tolist())

    def close(self) -> None:
        for end in self._ends:
            end.close()
        self.settle()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        stage = Stage(runner)
        yield stage
        stage.close()


def predicted(*values: float) -> Outputs:
    return (np.array(values, np.float64),)


# Rows that wait, and what a runner gets of them


def test_outputs_come_from_the_runner(stage: Stage) -> None:
    runner = stage.connect()
    asked = stage.ask(1, 2)

    assert runner.answer_next() == [[1, 2]]

    assert stage.result(asked) == [1.0, 2.0]


def test_what_was_asked_before_there_is_a_runner_waits_for_it(stage: Stage) -> None:
    asked = stage.ask(1)
    runner = stage.connect()

    assert runner.answer_next() == [[1]]
    assert stage.result(asked) == [1.0]


def test_a_runner_gets_as_many_rows_as_go_into_its_next_call_and_the_rest_when_that_begins(stage: Stage) -> None:
    runner = stage.connect()
    for rows in ([1, 2], [3, 4], [5]):
        stage.ask(*rows)
    first, second = runner.heard()

    assert runner.asked() == []
    runner.say(frames.announce(4, [first.number, second.number]))
    assert runner.asked() == [[5]]


def test_a_large_request_goes_in_pieces_between_which_others_go(stage: Stage) -> None:
    runner = stage.connect()
    large = stage.ask(*range(10))
    small = stage.ask(10)

    assert [runner.answer_next() for _ in range(5)] == [[[0, 1, 2, 3]], [[10]], [[4, 5, 6, 7]], [[8, 9]], []]
    assert stage.result(large) == [*range(10)]
    assert stage.result(small) == [10]


def test_requests_go_whole_where_calls_are_not_shared(stage: Stage) -> None:
    stage.open(shares=False)
    runner = stage.connect()
    large = stage.ask(*range(10))
    for row in (10, 11):
        stage.ask(row)

    assert [runner.answer_next() for _ in range(3)] == [[[*range(10)]], [[10]], [[11]]]
    assert stage.result(large) == [*range(10)]


def test_of_two_runners_the_idlest_is_asked(stage: Stage) -> None:
    one, other = stage.connect(0), stage.connect(1)
    stage.ask(1, 2)
    stage.ask(3)
    stage.ask(4)

    assert (one.asked(), other.asked()) == ([[1, 2]], [[3], [4]])


def test_what_the_idlest_runner_has_no_room_for_goes_to_another(stage: Stage) -> None:
    busy, idler = stage.connect(0), stage.connect(1)
    stage.ask(1, 2, 3, 4)
    stage.ask(5, 6, 7)
    busy.say(frames.announce(4, [busy.number()]))
    idler.heard()
    stage.ask(8, 9)

    assert (busy.asked(), idler.asked()) == ([[8, 9]], [])


def test_how_long_a_request_waited_is_told_once(stage: Stage) -> None:
    runner = stage.connect()
    asked = stage.ask(*range(5))
    runner.answer_next()
    runner.answer_next()
    stage.result(asked)

    [wait] = stage.waits
    assert 0 < wait < DEADLINE


# Requests that are taken back


def test_a_request_that_is_taken_back_before_it_is_sent_never_is(stage: Stage) -> None:
    runner = stage.connect()
    stage.ask(1, 2, 3, 4)
    waiting = stage.ask(5)
    stage.do(waiting.cancel)

    assert runner.answer_next() == [[1, 2, 3, 4]]
    assert runner.heard() == []


def test_a_request_that_is_taken_back_before_its_call_is_dropped_and_makes_room(stage: Stage) -> None:
    runner = stage.connect()
    sent = stage.ask(1, 2, 3)
    stage.ask(4, 5)
    number = runner.number()
    stage.do(sent.cancel)

    assert runner.heard() == [Frame(Word.DROP, number, b"")]
    runner.say(frames.fail(number, Failure("dropped")))
    assert runner.answer_next() == [[4, 5]]
    assert stage.broken == []


def test_a_request_that_is_taken_back_during_its_call_is_answered_to_nobody(stage: Stage) -> None:
    runner = stage.connect()
    asked = stage.ask(*range(5))
    number = runner.number()
    runner.say(frames.announce(4, [number]))
    stage.do(asked.cancel)

    assert runner.heard() == []
    runner.say(frames.answer(number, predicted(0, 1, 2, 3)))
    assert (runner.heard(), stage.broken) == ([], [])


# Failures of a model


def _failure(stage: Stage, rows: int, failure: Failure) -> BaseException | None:
    """What a request of so many rows ends with, whose last piece fails."""
    runner = stage.connect()
    asked = stage.ask(*range(rows))
    while rows > 4:
        runner.answer_next()
        rows -= 4
    number = runner.number()
    runner.say(frames.announce(rows, [number]), frames.fail(number, failure))
    assert stage.broken == []
    return asked.exception()


def test_what_a_model_raised_is_told_in_words(stage: Stage) -> None:
    raised = _failure(stage, 1, Failure("ZeroDivisionError: the needle"))

    assert isinstance(raised, ModelRaised)
    assert str(raised) == "ZeroDivisionError: the needle"


@pytest.mark.parametrize(("rows", "row", "told"), [(1, 0, None), (2, 1, 1), (7, 2, 6), (2, None, None)])
def test_a_number_too_large_is_told_with_its_place_in_the_request(
    stage: Stage, rows: int, row: int | None, told: int | None
) -> None:
    raised = _failure(stage, rows, Failure("too large", "3.4e38", "x", row))

    assert isinstance(raised, FeatureTooLarge)
    assert (raised.most, raised.column, raised.row) == ("3.4e38", "x", told)


# Runners that end


def test_what_was_announced_fails_with_its_runner_and_what_waited_goes_to_the_next_in_order(stage: Stage) -> None:
    runner = stage.connect()
    called = stage.ask(1)
    runner.say(frames.announce(1, [runner.number()]))
    taken_back, *waiting = [stage.ask(row) for row in range(2, 9)]
    assert len(runner.heard()) == 4
    stage.do(taken_back.cancel)
    runner.end_itself()

    assert isinstance(called.exception(), ModelCrashed)
    replacement = stage.connect()
    assert [replacement.answer_next() for _ in range(2)] == [[[3], [4], [5], [6]], [[7], [8]]]
    assert [stage.result(asked) for asked in waiting] == [[row] for row in range(3, 9)]


def test_what_waits_fails_once_a_version_is_out_of_service_and_so_does_what_comes(stage: Stage) -> None:
    waiting = stage.ask(1)
    stage.do(lambda: stage.client.unavailable("its process was killed"))
    coming = stage.ask(2)

    for asked in (waiting, coming):
        with pytest.raises(ModelUnavailable, match=r"^its process was killed$"):
            stage.result(asked)
    with pytest.raises(ModelUnavailable, match=r"^its process was killed$"):
        stage.client.admit(30)


def test_what_had_been_sent_fails_when_the_end_of_its_runner_is_told_later(stage: Stage) -> None:
    runner = stage.connect()
    sent = stage.ask(1)
    stage.do(lambda: stage.client.unavailable("its process was killed"))
    runner.end_itself()

    assert isinstance(sent.exception(), ModelUnavailable)


def test_a_version_is_in_service_again_with_the_next_runner(stage: Stage) -> None:
    stage.do(lambda: stage.client.unavailable("its process was killed"))
    runner = stage.connect()
    stage.client.admit(30)
    asked = stage.ask(1)
    runner.answer_next()

    assert stage.result(asked) == [1]


# Runners that send what they may not


def _announced(runner: ScriptedRunner, number: int) -> None:
    runner.say(frames.announce(2, [number]))


@pytest.mark.parametrize(
    "said",
    [
        lambda _: b"HTTP/1.1 200 OK\r\n\r\n",
        lambda _: pack("<BxxxIQ", Word.ANSWER, 2**32 - 1, 1),
        lambda number: frames.ask(number, [(1,)]),
        frames.drop,
        lambda number: frames.announce(2, [number]),
        lambda number: frames.announce(2, [number + 1]),
        lambda number: frames.answer(number, predicted(1)),
        lambda number: frames.answer(number + 1, predicted(1)),
        lambda number: frames.answer(number + 5, predicted(1, 2)),
        lambda number: frames.fail(number + 1, Failure("not announced")),
        lambda number: frames.fail(number, Failure("row", row=2)),
        lambda number: frames.fail(number, Failure("row", row=-1)),
        lambda number: frames.fail(number, Failure("column", "1", "z")),
        lambda number: frames.fail(number, Failure("most", None, "x")),
        lambda number: frames.fail(number, Failure("most", 41 * "9", "x")),
    ],
)
def test_a_wrong_frame_ends_the_connection_like_a_crash(stage: Stage, said: Callable[[int], bytes]) -> None:
    runner = stage.connect(3)
    called, waiting = stage.ask(1, 2), stage.ask(3)
    number = runner.heard()[0].number
    _announced(runner, number)
    runner.say(said(number))
    replacement = stage.connect()

    assert [told[:2] for told in stage.broken] == [(7, 3)]
    assert "expected" in stage.broken[0][2]
    assert runner.is_hung_up_on
    assert isinstance(called.exception(), ModelCrashed)
    assert replacement.answer_next() == [[3]]
    assert stage.result(waiting) == [3]


@pytest.mark.parametrize("numbers", [[], [99]])
def test_a_call_of_nothing_that_waits_ends_the_connection(stage: Stage, numbers: list[int]) -> None:
    runner = stage.connect()
    asked = stage.ask(1)
    runner.heard()

    runner.say(frames.announce(1, numbers))

    assert runner.is_hung_up_on
    assert stage.connect().answer_next() == [[1]]
    assert stage.result(asked) == [1]


def test_a_runner_that_speaks_out_of_turn_is_hung_up_on_once(stage: Stage) -> None:
    end = stage.pair()
    runner = ScriptedRunner(stage, stage._ends[-1])
    runner.end.sendall(b"garbage" * 10)

    stage.do(lambda: stage.client.connect(end, 0, Board()))

    assert runner.is_hung_up_on
    assert len(stage.broken) == 1


# Admission


def test_any_request_is_admitted_while_nothing_waits(stage: Stage) -> None:
    stage.open(call_seconds=1000.0)

    stage.client.admit(0.0)


@pytest.mark.parametrize(
    ("terms", "waiting", "time_left", "admitted"),
    [
        ({}, (8, 32), 30.0, False),  # 8 calls of 0.1 s, and 32 rows of 0.01 s: 1.12 s, more than 1 s
        ({"max_batch_rows": 8}, (8, 32), 30.0, True),
        ({"shares": False}, (8, 19), 30.0, True),
        ({"shares": False}, (8, 21), 30.0, False),
        ({"instances": 2}, (8, 32), 30.0, True),
        ({}, (1, 4), 0.3, True),
        ({}, (1, 4), 0.26, False),
    ],
)
def test_a_request_is_admitted_by_what_all_workers_have_waiting(
    stage: Stage, terms: dict[str, Any], waiting: tuple[int, int], time_left: float, *, admitted: bool
) -> None:
    memory = mmap.mmap(-1, Board.size(2))
    Board(memory, 1).add(*waiting)
    stage.open(**terms)
    stage.connect(board=Board(memory, 0))

    if admitted:
        stage.client.admit(time_left)
    else:
        with pytest.raises(Overloaded):
            stage.client.admit(time_left)


def test_calls_as_they_go_count_for_more_than_those_when_it_was_opened(stage: Stage) -> None:
    stage.open(call_seconds=100.0)
    runner = stage.connect()
    for _ in range(60):
        stage.ask(1)
        runner.answer_next()
    stage.ask(1)

    stage.client.admit(30.0)


def test_what_waits_here_counts_until_it_is_settled_and_stays_counted_with_each_runner_that_comes(
    stage: Stage,
) -> None:
    memory = mmap.mmap(-1, Board.size(1))
    asked = stage.ask(1, 2, 3)
    runner = stage.connect(0, Board(memory, 0))
    stage.connect(1, Board(memory, 0))

    assert Board(memory, 0).own == (1, 3)
    runner.answer_next()
    assert stage.result(asked) == [1, 2, 3]
    stage.settle()
    assert Board(memory, 0).own == (0, 0)


# The end


def test_a_client_that_retires_hangs_up_after_its_last_answer(stage: Stage) -> None:
    runner = stage.connect()
    asked = stage.ask(1)
    number = runner.number()
    stage.do(stage.client.retire)
    assert not runner.is_hung_up_on

    runner.say(frames.announce(1, [number]), frames.answer(number, predicted(1)))

    assert stage.result(asked) == [1]
    assert runner.is_hung_up_on


def test_a_client_that_retires_with_nothing_in_hand_hangs_up_at_once(stage: Stage) -> None:
    runner = stage.connect()
    stage.do(stage.client.retire)

    assert runner.is_hung_up_on
    assert stage.connect().is_hung_up_on


# All clients of a process


def test_clients_are_found_by_the_number_of_their_opening(stage: Stage) -> None:
    clients = RunnerClients(max_rows=100, max_wait=1.0)
    stage.client = clients.open(TERMS, SIGNATURE, stage.waits.append)
    end = stage.pair()
    stage.do(lambda: clients.connect(7, end, 0, Board()))
    runner = ScriptedRunner(stage, stage._ends[-1])
    asked = stage.ask(1)
    runner.answer_next()
    assert stage.result(asked) == [1]

    stage.do(lambda: clients.unavailable(7, "out"))
    assert isinstance(stage.ask(1).exception(), ModelUnavailable)
    stage.do(lambda: clients.retire(stage.client))
    assert runner.is_hung_up_on


def test_a_client_that_retires_leaves_its_number_to_another(stage: Stage) -> None:
    clients = RunnerClients(max_rows=100, max_wait=1.0)
    former, stage.client = (clients.open(TERMS, SIGNATURE, stage.waits.append) for _ in range(2))
    stage.do(lambda: clients.retire(former))
    end = stage.pair()
    stage.do(lambda: clients.connect(7, end, 0, Board()))
    runner = ScriptedRunner(stage, stage._ends[-1])
    asked = stage.ask(1)

    assert runner.answer_next() == [[1]]
    assert stage.result(asked) == [1]


def test_all_runners_are_hung_up_on_when_an_application_ends(stage: Stage) -> None:
    clients = RunnerClients(max_rows=100, max_wait=1.0)
    stage.client = clients.open(TERMS, SIGNATURE, stage.waits.append)
    runner = stage.connect()
    asked = stage.ask(1)
    runner.say(frames.announce(1, [runner.number()]))
    stage.runner.run(clients.close())

    assert isinstance(asked.exception(), ModelCrashed)
    assert runner.is_hung_up_on


def test_a_runner_of_a_version_that_nobody_asks_is_hung_up_on(stage: Stage) -> None:
    clients = RunnerClients(max_rows=100, max_wait=1.0)
    end = stage.pair()
    stage.do(lambda: clients.connect(7, end, 0, Board()))
    stage.do(lambda: clients.unavailable(7, "out"))

    assert ScriptedRunner(stage, stage._ends[-1]).is_hung_up_on


@pytest.mark.parametrize("is_supervised", [True, False])
def test_whoever_starts_runners_is_told_of_one_that_must_go(stage: Stage, *, is_supervised: bool) -> None:
    clients = RunnerClients(max_rows=100, max_wait=1.0)
    told: list[tuple[int, int, str]] = []
    if is_supervised:
        clients.supervision = lambda *about: told.append(about)
    stage.client = clients.open(TERMS, SIGNATURE, stage.waits.append)
    runner = stage.connect(2)

    runner.say(b"\0" * 16)

    assert runner.is_hung_up_on
    assert [about[:2] for about in told] == [(7, 2)] * is_supervised

"""The runners of one version as a worker asks them: rows wait here, and each runner takes what has queued as a call."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from math import ceil
from time import perf_counter
from typing import Any

import numpy as np
from typing_extensions import override

from weighbridge.adapters.runners import frames
from weighbridge.adapters.runners.frames import BrokenFrame, Frame, Word
from weighbridge.adapters.runners.terms import Board, Supervision, Terms
from weighbridge.application.admission import Overloaded, Pace
from weighbridge.domain.batch import Outputs, Rows
from weighbridge.domain.errors import FeatureTooLarge, ModelCrashed, ModelUnavailable
from weighbridge.domain.signature import Signature

_LONGEST_BOUND = 40  # characters of the greatest number that a model takes


class ModelRaised(Exception):
    """What a model raised in its runner, in words for the log."""


class _Request:
    """The rows of one request, in pieces that are asked for one after the other."""

    __slots__ = ("answers", "came", "future", "pieces", "place")

    def __init__(self, pieces: list[Rows], future: "asyncio.Future[Outputs]") -> None:
        self.pieces = pieces
        self.future = future
        self.answers: list[Outputs] = []
        self.place = 0
        self.came = perf_counter()

    @property
    def rows(self) -> Rows:
        """Of the piece that is next, or asked for."""
        return self.pieces[len(self.answers)]


class _Asked:
    """A piece that was sent to a runner."""

    __slots__ = ("announced", "request", "rows")

    def __init__(self, request: _Request, rows: int) -> None:
        self.request = request
        self.rows = rows
        self.announced = False


class _Connection(asyncio.Protocol):
    """The connection to one runner."""

    def __init__(self, client: "RunnerClient", instance: int) -> None:
        self._client = client
        self._inbox = frames.Inbox(client.most_bytes)
        self.instance = instance
        self.asked: dict[int, _Asked] = {}
        self.rows = 0
        self.unannounced = 0
        self.in_call = 0
        self.call: tuple[int, float] | None = None
        self.transport: asyncio.Transport

    @override
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.pause_reading()  # until the loop has made it: uvloop would close the socket twice before

    @override
    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._inbox.feed(data):
                self._client.heed(self, frame)
        except BrokenFrame as exc:
            self.transport.abort()
            self._client.broken(self._client.terms.number, self.instance, str(exc))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(self)


class RunnerClient:
    """Asks the runners of a version, and keeps what none has taken up yet.

    A runner holds a call and the rows of the next one, `max_batch_rows` of each worker; all else waits here, where it
    can be dropped, or be given to the runner's replacement. Only for the event loop.
    """

    def __init__(
        self,
        terms: Terms,
        signature: Signature,
        broken: Supervision,
        *,
        max_rows: int,
        max_wait: float,
        waited: Callable[[float], None],
    ) -> None:
        self.terms = terms
        self.signature = signature
        self.broken = broken
        self.most_bytes = frames.most_bytes(signature, max_rows)
        self._max_wait = max_wait
        self._waited = waited
        self._pace = Pace(terms.call_seconds, terms.row_seconds)
        self._waiting: deque[_Request] = deque()
        self._connecting: set[asyncio.Task[Any]] = set()
        self._connections: list[_Connection] = []
        self._numbers = count(1)
        self._board = Board()
        self._unavailable: str | None = None
        self._retired = False

    # What carriers ask

    def admit(self, time_left: float) -> None:
        """Raises Overloaded where all that waits takes too long, ModelUnavailable where there is no runner to wait for.

        The wait must be within `max_wait`, and half of the time that the request has left.
        """
        if self._unavailable is not None:
            raise ModelUnavailable(self._unavailable)
        requests, rows = self._board.total()
        if requests and self._wait(requests, rows) > min(self._max_wait, time_left / 2):
            raise Overloaded

    def ask(self, rows: Rows) -> "asyncio.Future[Outputs]":
        """The outputs, once they are there; to cancel the future takes the request back.

        The future raises FeatureTooLarge, ModelRaised, ModelCrashed, ModelUnavailable.
        """
        future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        if self._unavailable is not None:
            future.set_exception(ModelUnavailable(self._unavailable))
            return future
        most = self.terms.max_batch_rows
        whole = not self.terms.shares or len(rows) <= most
        pieces = [rows] if whole else [rows[start : start + most] for start in range(0, len(rows), most)]
        request = _Request(pieces, future)
        future.add_done_callback(lambda _: self._settled(request))
        self._board.add(1, len(rows))
        self._waiting.append(request)
        self._send()
        return future

    # What the worker is told by whoever starts runners

    def connect(self, end: socket.socket, instance: int, board: Board) -> None:
        """Ask this runner, too. The first brings the board that all workers count on."""
        requests, rows = self._board.own
        board.add(requests, rows)
        self._board.add(-requests, -rows)
        self._board = board
        self._unavailable = None
        connecting = asyncio.get_running_loop().create_task(self._connect(end, instance))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    def unavailable(self, reason: str) -> None:
        """There is no runner, and none comes soon: nothing waits for one any more."""
        self._unavailable = reason
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            _fail(request, ModelUnavailable(reason))

    def retire(self) -> None:
        """End the connections once nothing is in hand."""
        self._retired = True
        self._end_if_idle()

    def close(self) -> None:
        """End the connections, whatever is in hand."""
        for connection in self._connections:
            connection.transport.abort()

    # What connections tell

    def heed(self, connection: _Connection, frame: Frame) -> None:
        """Take what a runner says. Raises BrokenFrame."""
        match frame.word:
            case Word.ANNOUNCE:
                self._announced(connection, frames.announced(frame.payload))
            case Word.ANSWER:
                asked = self._called(connection, frame.number)
                outputs = frames.answered(frame.payload, self.signature, asked.rows)
                self._take(connection, frame.number)
                self._answered(asked.request, outputs)
            case Word.FAIL:
                asked = self._called(connection, frame.number)
                error = self._error(asked, frames.failed(frame.payload))
                self._take(connection, frame.number)
                _fail(asked.request, error)
            case _:
                raise BrokenFrame("expected what a runner says, got what a worker does")
        self._send()

    def lost(self, connection: _Connection) -> None:
        """A runner has ended: what it had announced has failed, the rest waits for another, before all else."""
        self._connections.remove(connection)
        for asked in reversed(connection.asked.values()):
            if asked.announced:
                _fail(asked.request, ModelCrashed())
            elif self._unavailable is not None:
                _fail(asked.request, ModelUnavailable(self._unavailable))
            elif not asked.request.future.done():
                self._waiting.appendleft(asked.request)
        connection.asked.clear()
        self._send()

    # Inside

    async def _connect(self, end: socket.socket, instance: int) -> None:
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_unix_connection(lambda: _Connection(self, instance), sock=end)
        transport.resume_reading()
        self._connections.append(connection)
        self._send()
        self._end_if_idle()

    def _wait(self, requests: int, rows: int) -> float:
        calls = ceil(rows / self.terms.max_batch_rows) if self.terms.shares else requests
        return self._pace.seconds(calls, rows) / self.terms.instances

    def _send(self) -> None:
        """Send what waits to runners that have room for it, the idlest first."""
        while self._waiting and self._connections:
            request = self._waiting[0]
            size = len(request.rows)
            with_room = [connection for connection in self._connections if self._has_room(connection, size)]
            if not with_room:
                return
            connection = min(with_room, key=lambda one: one.rows)
            self._waiting.popleft()
            number = next(self._numbers)
            connection.asked[number] = _Asked(request, size)
            connection.rows += size
            connection.unannounced += size
            connection.transport.write(frames.ask(number, request.rows))

    def _has_room(self, connection: _Connection, rows: int) -> bool:
        """Whether a runner takes so many rows for its next call; one that shares no calls takes one request."""
        unannounced = connection.unannounced
        return not unannounced or (self.terms.shares and unannounced + rows <= self.terms.max_batch_rows)

    def _settled(self, request: _Request) -> None:
        """A request is answered, has failed, or was taken back."""
        self._board.add(-1, -sum(map(len, request.pieces)))
        if request.future.cancelled():
            with suppress(ValueError):  # it is with a runner
                self._waiting.remove(request)
            for connection in self._connections:
                for number, asked in connection.asked.items():
                    if asked.request is request and not asked.announced:
                        connection.transport.write(frames.drop(number))
        self._end_if_idle()

    def _announced(self, connection: _Connection, announcement: frames.Announcement) -> None:
        if connection.in_call or not announcement.numbers:
            raise BrokenFrame("expected a call of one or more requests after the one before, got another")
        now = perf_counter()
        connection.call = announcement.rows, now
        for number in announcement.numbers:
            asked = connection.asked.get(number)
            if asked is None or asked.announced:
                raise BrokenFrame("expected the number of a request that waits, got another")
            asked.announced = True
            connection.in_call += 1
            connection.unannounced -= asked.rows
            if not asked.request.answers:
                self._waited(now - asked.request.came)

    def _called(self, connection: _Connection, number: int) -> _Asked:
        """A request of a call that has ended, or one that was dropped before. Raises BrokenFrame."""
        asked = connection.asked.get(number)
        if asked is None or not (asked.announced or asked.request.future.cancelled()):
            raise BrokenFrame("expected the number of a request of the call, got another")
        return asked

    def _take(self, connection: _Connection, number: int) -> None:
        """Have a request off a runner's hands."""
        asked = connection.asked.pop(number)
        connection.rows -= asked.rows
        if asked.announced:
            connection.in_call -= 1
        else:
            connection.unannounced -= asked.rows
        if connection.call is not None:
            rows, began = connection.call
            connection.call = None
            self._pace.observe(rows, perf_counter() - began)

    def _answered(self, request: _Request, outputs: Outputs) -> None:
        if request.future.done():
            return
        request.answers.append(outputs)
        request.place += len(outputs[0])
        if len(request.answers) < len(request.pieces):
            self._waiting.append(request)
        elif len(request.pieces) == 1:
            request.future.set_result(outputs)
        else:
            request.future.set_result(tuple(map(np.concatenate, zip(*request.answers, strict=True))))

    def _error(self, asked: _Asked, failure: frames.Failure) -> Exception:
        """What a failure is to carriers. Raises BrokenFrame."""
        if failure.row is not None and not 0 <= failure.row < asked.rows:
            raise BrokenFrame("expected the place of a row, got another")
        if failure.column is not None:
            known = failure.column in {column.name for column in self.signature.inputs}
            if not known or failure.most is None or len(failure.most) > _LONGEST_BOUND:
                raise BrokenFrame("expected a column and the most that it takes, got others")
            alone = sum(map(len, asked.request.pieces)) == 1
            row = None if alone or failure.row is None else asked.request.place + failure.row
            return FeatureTooLarge(most=failure.most, column=failure.column, row=row)
        return ModelRaised(failure.text)

    def _end_if_idle(self) -> None:
        if self._retired and self._board.own == (0, 0):
            for connection in self._connections:
                connection.transport.close()


class RunnerClients:
    """The clients of a process, by the numbers of their openings."""

    def __init__(self, *, max_rows: int, max_wait: float) -> None:
        self.supervision: Supervision | None = None
        self._max_rows = max_rows
        self._max_wait = max_wait
        self._clients: dict[int, RunnerClient] = {}

    def open(self, terms: Terms, signature: Signature, waited: Callable[[float], None]) -> RunnerClient:
        """A client, which is yet to be connected; in any thread."""
        client = RunnerClient(
            terms, signature, self._broken, max_rows=self._max_rows, max_wait=self._max_wait, waited=waited
        )
        self._clients[terms.number] = client
        return client

    def connect(self, number: int, end: socket.socket, instance: int, board: Board) -> None:
        """Have a runner asked by the client of its opening; one that nobody asks any more is hung up on."""
        client = self._clients.get(number)
        if client is None:
            end.close()
        else:
            client.connect(end, instance, board)

    def unavailable(self, number: int, reason: str) -> None:
        """A version is out of service."""
        if number in self._clients:
            self._clients[number].unavailable(reason)

    def retire(self, client: RunnerClient) -> None:
        """Forget a client, which ends when nothing is in hand."""
        if self._clients.get(client.terms.number) is client:
            del self._clients[client.terms.number]
        client.retire()

    async def close(self) -> None:
        """Hang up on all runners; their numbers may be given to others from now on."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()
        await asyncio.sleep(0)  # the turn of the loop in which connections end

    def _broken(self, number: int, instance: int, reason: str) -> None:
        if self.supervision is not None:
            self.supervision(number, instance, reason)


def _fail(request: _Request, error: Exception) -> None:
    if not request.future.done():
        request.future.set_exception(error)

"""The queue for what takes its time on the event loop: served between two looks at the sockets, in order."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from weighbridge.application.admission import Admission, Overloaded, ServiceTime

_SLICE_SECONDS = 0.001
LOOKS = 3  # at the sockets: a connection that has come is taken with the first, set up with the second, and heard

Serve = Callable[[], "asyncio.Future[Any] | None"]
"""Serves a request; gives a future where it is not served yet when this returns."""


class Turn:
    """A place in the queue; `serve` is called when its turn comes, and None once that is given up."""

    __slots__ = ("serve", "service_time")

    def __init__(self, service_time: ServiceTime, serve: Serve) -> None:
        self.service_time = service_time
        self.serve: Serve | None = serve


class Queue:
    """Requests of all connections that wait for their turn.

    One is served at a time, or as many as a millisecond holds. Then the event loop reads all that has arrived, on new
    connections, too. So what must be refused is refused at once, and what is quick never waits for more than one slow
    request.
    """

    def __init__(self, *, max_wait: float) -> None:
        self._admission = Admission(max_wait=max_wait)
        self._turns: deque[Turn] = deque()
        self._scheduled = False

    def admits(self, time_left: float) -> bool:
        """Whether a request that must be answered in `time_left` seconds may join."""
        return self._admission.admits(time_left)

    def join(self, service_time: ServiceTime, serve: Serve, loop: asyncio.AbstractEventLoop) -> Turn:
        """Have `loop` call `serve` when the turn of a request comes that takes about `service_time`."""
        turn = Turn(service_time, serve)
        self._admission.enter(service_time)
        self._turns.append(turn)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._serve_slice, loop)
        return turn

    @asynccontextmanager
    async def turn(self, service_time: ServiceTime, time_left: float) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the context lasts. Raises Overloaded."""
        if not self.admits(time_left):
            raise Overloaded
        loop = asyncio.get_running_loop()
        came, served = loop.create_future(), loop.create_future()

        def serve() -> asyncio.Future[None]:
            if not came.done():  # otherwise whoever waited has just gone
                came.set_result(None)
            return served

        turn = self.join(service_time, serve, loop)
        try:
            await came
        except asyncio.CancelledError:
            if turn.serve is not None:
                self.leave(turn)
            served.set_result(None)
            raise
        try:
            yield
        finally:
            served.set_result(None)

    def leave(self, turn: Turn) -> None:
        """Give up a turn that has not come."""
        turn.serve = None
        self._admission.leave(turn.service_time)

    def _serve_slice(self, loop: asyncio.AbstractEventLoop) -> None:
        end = perf_counter() + _SLICE_SECONDS
        later = None
        try:
            while self._turns and later is None:
                later = self._serve_next()
                if perf_counter() >= end:
                    break
        finally:  # whatever went wrong with one request, the others get their turn
            if later is not None:
                later.add_done_callback(lambda _: self._go_on(loop))
            else:
                self._go_on(loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = bool(self._turns)
        if self._scheduled:
            self._look(loop, LOOKS)

    def _look(self, loop: asyncio.AbstractEventLoop, times: int) -> None:
        """Have the loop look at its sockets so many times before the next turn."""
        if times > 1:
            loop.call_soon(self._look, loop, times - 1)
        else:
            loop.call_soon(self._serve_slice, loop)

    def _serve_next(self) -> "asyncio.Future[Any] | None":
        turn = self._turns.popleft()
        serve, turn.serve = turn.serve, None
        if serve is None:
            return None
        service_time = turn.service_time
        self._admission.leave(service_time)
        later = serve()
        if later is not None:
            self._admission.enter(service_time)
            later.add_done_callback(lambda _: self._admission.leave(service_time))
        return later

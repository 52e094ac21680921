"""The queue for models that take their time: served between two looks at the sockets, first come, first served."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

from weighbridge.application.admission import Admission, ServiceTime

_SLICE_SECONDS = 0.001
_LOOKS = 3  # at the sockets: a connection that has come is taken with the first, set up with the second, and heard


class Turn:
    """A place in the queue; `serve` is called when its turn comes, and None once that is given up."""

    __slots__ = ("serve", "service_time")

    def __init__(self, service_time: ServiceTime, serve: Callable[[], None]) -> None:
        self.service_time = service_time
        self.serve: Callable[[], None] | None = serve


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

    def join(self, service_time: ServiceTime, serve: Callable[[], None], loop: asyncio.AbstractEventLoop) -> Turn:
        """Have `loop` call `serve` when the turn of a request comes that takes about `service_time`."""
        turn = Turn(service_time, serve)
        self._admission.enter(service_time)
        self._turns.append(turn)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._serve_slice, loop)
        return turn

    def leave(self, turn: Turn) -> None:
        """Give up a turn that has not come."""
        turn.serve = None
        self._admission.leave(turn.service_time)

    def _serve_slice(self, loop: asyncio.AbstractEventLoop) -> None:
        end = perf_counter() + _SLICE_SECONDS
        try:
            while self._turns:
                self._serve_next()
                if perf_counter() >= end:
                    break
        finally:  # whatever went wrong with one request, the others get their turn
            self._scheduled = bool(self._turns)
            if self._scheduled:
                self._look(loop, _LOOKS)

    def _look(self, loop: asyncio.AbstractEventLoop, times: int) -> None:
        """Have the loop look at its sockets so many times before the next turn."""
        if times > 1:
            loop.call_soon(self._look, loop, times - 1)
        else:
            loop.call_soon(self._serve_slice, loop)

    def _serve_next(self) -> None:
        turn = self._turns.popleft()
        if turn.serve is not None:
            self._admission.leave(turn.service_time)
            turn.serve()

"""The requests of one connection that are in hand, answered in their order: by the fast lane, or by the application."""

import asyncio
from collections import deque
from functools import partial
from time import perf_counter
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from weighbridge.adapters.http.fast_route import CompiledRoute
from weighbridge.adapters.http.problems import Problem, RefusedRequest, Reply
from weighbridge.adapters.metrics import Durations
from weighbridge.application.queue import Turn
from weighbridge.server.edge.head import Head, Refusal, Request
from weighbridge.server.edge.replies import CLOSE, Answered, Due
from weighbridge.server.edge.road import Addresses, addresses
from weighbridge.server.edge.shared import Shared


class Wire(Protocol):
    """What a conversation asks of its connection."""

    def proceed(self) -> None:
        """Go on, now that fewer requests may be in hand."""
        ...

    def close(self) -> None:
        """End once all that was written is sent."""
        ...

    def linger(self) -> None:
        """The same, but give the client time to read it, whatever it sends meanwhile."""
        ...


class Conversation:
    """`requests` are those in hand, the oldest first; `answered_at` is when the latest reply was ready.

    It is over once its last reply is given, or decided on. Times are perf_counter's, in seconds.
    """

    def __init__(self, shared: Shared, transport: asyncio.Transport, flow: FlowControl, wire: Wire) -> None:
        self.requests: deque[Request] = deque()
        self.answered_at: float | None = None
        self.is_over = False
        self._ends = shared.gate.draining
        self._serving: Turn | Due | RequestResponseCycle | None = None  # what the oldest request waits for
        self._refusal: Refusal | None = None
        self._addresses: Addresses | None = None
        self._shared = shared
        self._replies = shared.replies
        self._transport = transport
        self._flow = flow
        self._wire = wire

    @property
    def has_room(self) -> bool:
        """Whether one more request may come."""
        limit = self._shared.gate.settings.max_pipelined
        return len(self.requests) < limit and not self._flow.write_paused and not self.is_over

    @property
    def held(self) -> int:
        """How many bytes it holds."""
        return sum(len(request.body) for request in self.requests) if self.requests else 0

    def take(self, head: Head, body: bytes | bytearray, first_byte: float, came: float) -> bool:
        """Answer a whole request, at once or in its turn; whether it was at once, and the conversation goes on.

        Raises RefusedRequest where the application has too much in hand.
        """
        route = head.route
        if route is None:
            self._check_in_flight()
        elif not self.requests and came <= (deadline := first_byte + head.time_limit):
            if route.is_quick:
                answered = self._replies.answer(head, route, body, came, deadline)
                if not isinstance(answered, Due):
                    _, _, ready_at = answered
                    route.service_time.observe(ready_at - came)
                    return self._give(head, answered)
                self._await(answered, route)
            elif not self._shared.lane.queue.admits(deadline - came):  # most, when there are too many
                return self._give(head, self._replies.turned_away(head, route, came))
        self.requests.append(Request(head, body, first_byte, came))
        self._advance()
        return False

    def go_on(self) -> None:
        """Serve what can be served by now."""
        self._advance()
        if self._refusal is not None and not self.requests:
            self._give_refusal(self._refusal)
        self._wire.proceed()

    def refuse(self, refusal: Refusal) -> None:
        """Have the conversation end with a refusal, after the replies to what is in hand."""
        self.is_over = True
        if self.requests:
            self._refusal = refusal
        else:
            self._give_refusal(refusal)

    def end(self) -> None:
        """Have it end with its next reply behind which nothing waits."""
        self._ends = True
        if isinstance(self._serving, RequestResponseCycle) and len(self.requests) == 1:
            self._serving.keep_alive = False

    def give_up(self) -> list[Request]:
        """Forget all requests but one that the application works on; those that were forgotten."""
        serving = self._serving
        forgotten = list(self.requests)
        self.requests.clear()
        if isinstance(serving, RequestResponseCycle):
            self.requests.append(forgotten.pop(0))
            return forgotten
        self._serving = None
        if isinstance(serving, Turn):
            self._shared.lane.queue.leave(serving)
        elif isinstance(serving, Due):
            serving.reply.cancel()
        return forgotten

    def finish(self) -> None:
        """The last reply is given: forget what comes after it."""
        self.is_over = True
        self._refusal = None
        self.give_up()

    def abandon(self) -> None:
        """Forget all: the client is gone."""
        telemetry = self._shared.lane.telemetry
        for request in self.give_up():
            telemetry.abandoned(request_id=telemetry.request_id(request.head.given_id))
        if isinstance(self._serving, RequestResponseCycle):
            self._serving.disconnected = True
            self._serving.message_event.set()
        del self._wire  # which holds this conversation

    def _check_in_flight(self) -> None:
        if len(self._shared.road.tasks) >= self._shared.gate.settings.max_in_flight:
            self._shared.lane.telemetry.shed("in_flight")
            raise RefusedRequest(Problem.OVERLOADED, "The server has too many requests in hand; retry later")

    def _advance(self) -> None:
        """Serve what is in hand, up to a request whose reply comes later."""
        while self.requests and self._serving is None and not self._transport.is_closing():
            request = self.requests[0]
            route = request.head.route
            if route is None:
                self._serving = self._hand_over(request)
            elif self._flow.write_paused:
                return
            else:
                self._serve(request, route)

    # The ordinary road

    def _hand_over(self, request: Request) -> RequestResponseCycle:
        if self._addresses is None:
            self._addresses = addresses(self._transport)
        keep_alive = request.head.keep_alive and not (self._ends and len(self.requests) == 1)
        return self._shared.road.begin(
            request, self._addresses, self._transport, self._flow, self._responded, keep_alive=keep_alive
        )

    def _responded(self) -> None:
        """Called by uvicorn when the application has answered the oldest request."""
        self._serving = None
        self.requests.popleft()
        self.answered_at = perf_counter()
        if self._transport.is_closing():  # it was the last
            self._wire.close()
        self.go_on()

    # The fast lane

    def _serve(self, request: Request, route: CompiledRoute) -> None:
        """Answer the oldest request, refuse it, or have it wait for its turn in the gate's queue."""
        queue = self._shared.lane.queue
        left = request.deadline - perf_counter()
        waits = None if route.is_quick else route.waits
        if waits is not None and queue.admits(left):
            take_turn = partial(self._take_turn, request, route, waits)
            self._serving = queue.join(route.service_time, take_turn, self._shared.road.loop)
        elif left >= 0 and waits is None:
            self._answer(request, route)
        else:
            self.requests.popleft()
            unserved = self._replies.expired if left < 0 else self._replies.turned_away
            self._give(request.head, unserved(request.head, route, request.came))

    def _take_turn(self, request: Request, route: CompiledRoute, waits: Durations) -> "asyncio.Task[Reply] | None":
        """Called by the queue; what the request is served by, if later."""
        self._serving = None
        if self._transport.is_closing():
            return None
        now = perf_counter()
        waits.observe(now - request.came)
        if now <= request.deadline:
            answered = self._answer(request, route)
            if isinstance(answered, Due):
                return answered.reply
            _, _, ready_at = answered
            route.service_time.observe(ready_at - now)
        self.go_on()
        return None

    def _answer(self, request: Request, route: CompiledRoute) -> Answered | Due:
        """Reply to the oldest request, now or later."""
        answered = self._replies.answer(request.head, route, request.body, request.came, request.deadline)
        if isinstance(answered, Due):
            self._await(answered, route)
        else:
            self.requests.popleft()
            self._give(request.head, answered)
        return answered

    def _await(self, due: Due, route: CompiledRoute) -> None:
        self._serving = due
        due.reply.add_done_callback(partial(self._arrived, due, route, perf_counter()))

    def _arrived(self, due: Due, route: CompiledRoute, since: float, arrived: "asyncio.Task[Reply]") -> None:
        """Give a reply that was due, unless nobody waits for it any more."""
        if self._serving is not due or arrived.cancelled():  # as when the event loop ends
            return
        self._serving = None
        request = self.requests.popleft()
        answered = self._replies.finish(
            request.head, route, due.request_id, arrived.result(), request.came, request.deadline
        )
        self._give(request.head, answered)
        if not route.is_remote:
            _, _, ready_at = answered
            route.service_time.observe(ready_at - since)
        self.go_on()

    def _give(self, head: Head, answered: Answered) -> bool:
        """Write a reply of the fast lane; whether the conversation goes on."""
        reply, request_id, self.answered_at = answered
        keep_alive = head.keep_alive and not (self._ends and not self.requests)
        self._transport.write(self._replies.written(reply, request_id, "" if keep_alive else CLOSE))
        if not keep_alive:
            self._wire.close()
        return keep_alive

    def _give_refusal(self, refusal: Refusal) -> None:
        self._transport.write(self._replies.refused(refusal))
        self._wire.linger()

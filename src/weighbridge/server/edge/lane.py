"""What the application gives the protocol, so that it can answer compiled routes itself."""

from dataclasses import dataclass, field
from time import perf_counter

from weighbridge.adapters.telemetry import RequestTelemetry
from weighbridge.application.queue import Queue
from weighbridge.application.readiness import Readiness
from weighbridge.server.edge.head import Head, LaneRoutes

END_OF_HEAD = b"\r\n\r\n"

_LARGEST_KNOWN_HEAD = 2048
_MOST_KNOWN_HEADS = 512
_FORGET_SECONDS = 1.0


@dataclass(slots=True)
class Lane:
    """Compiled routes, and the heads of their requests that are known by their exact bytes.

    Clients repeat their heads with every request: one that is known need not be parsed nor judged again. The same bytes
    mean the same wherever a message starts, so the memory cannot mislead. It travels in the state of the application's
    lifespan, under the key `lane`.
    """

    routes: LaneRoutes
    telemetry: RequestTelemetry
    readiness: Readiness
    queue: Queue
    known_heads: dict[bytes, Head] = field(default_factory=dict)
    _of_models: dict[str, LaneRoutes] = field(default_factory=dict)
    _forgot: float = 0.0

    def lead_to(self, model: str, routes: LaneRoutes) -> None:
        """Have these routes, in place of those before, answer the requests for a model that begin from now on."""
        gone = self._of_models.get(model, {})
        self._of_models[model] = routes
        self.routes = {key: route for key, route in self.routes.items() if key not in gone} | routes
        self.known_heads.clear()  # for they hold routes; and in place, for every connection holds them

    def remember(self, data: bytes, head: Head) -> None:
        """Know the head of `data`, one whole request, when it comes again."""
        end = data.find(END_OF_HEAD) + len(END_OF_HEAD)
        if end > _LARGEST_KNOWN_HEAD or len(data) - end != head.length:
            return
        if head.given_id is not None or head.awaits_continue:
            return
        now = perf_counter()
        if len(self.known_heads) < _MOST_KNOWN_HEADS:
            self.known_heads[data[:end]] = head
        elif now - self._forgot > _FORGET_SECONDS:  # so that made-up heads can push out the real ones but rarely
            self.known_heads.clear()
            self._forgot = now

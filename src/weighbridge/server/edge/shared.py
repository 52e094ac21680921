"""What all connections of a process share."""

import asyncio
from dataclasses import dataclass
from typing import Any, Self

from uvicorn import Config
from uvicorn.server import ServerState

from weighbridge.server.edge.gate import Gate
from weighbridge.server.edge.lane import Lane
from weighbridge.server.edge.replies import Replies
from weighbridge.server.edge.road import Road


@dataclass(frozen=True, slots=True)
class Shared:
    """The gate, and both ways to an answer: the fast lane with its replies, and the ordinary road."""

    gate: Gate
    lane: Lane
    replies: Replies
    road: Road

    @classmethod
    def of(
        cls,
        gate: Gate,
        config: Config,
        state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> Self:
        """What the connections of a server share whose application has started with this state."""
        lane: Lane = app_state["lane"]
        return cls(gate, lane, Replies(lane.telemetry, state), Road(config, state, app_state, loop))

"""What all connections of a process share: limits, the budget for buffered bytes, the clock of timeouts."""

import asyncio
from collections import OrderedDict
from time import perf_counter
from typing import Protocol

from weighbridge.server.scoreboard import Vitals
from weighbridge.settings import Settings

_SWEEP_SECONDS = 0.25
_PAUSE_SHARE = 0.75


class GatedConnection(Protocol):
    """What the gate asks of a connection."""

    def sweep(self, now: float) -> None:
        """End what has waited too long by `now`, in seconds of perf_counter."""
        ...

    def shed(self) -> None:
        """Give up what is buffered: refuse the request, or drop the reply that nobody reads."""
        ...

    def pause(self) -> None:
        """Read no more until `resume`."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def shutdown(self) -> None:
        """End with the next reply, or when at rest."""
        ...


class GiveBack(Protocol):
    """Lets another process go on with a connection."""

    def __call__(self, descriptor: int, /, *, kept: bool) -> bool:
        """Whether one takes the connection, which is `kept` if it has had a request."""
        ...


class Gate:
    """Keeps count of the bytes that all connections buffer, and looks at each connection a few times a second.

    Above three quarters of `max_buffered_bytes` all but the oldest holder stop reading; above all of it the youngest
    holders are shed until the rest fits, or is the oldest alone. So that one always comes through.
    One sweep over all connections replaces a timer for each, which would cost time on every request and leak on resets.

    When the process is to end, first `draining` asks every client to leave, then `closing` ends what is at rest. While
    there is a `give_back`, what is at rest is given back.
    """

    def __init__(self, settings: Settings, vitals: Vitals | None = None) -> None:
        self.settings = settings
        self.vitals = Vitals() if vitals is None else vitals
        self.connections: set[GatedConnection] = set()
        self.draining = False
        self.closing = False
        self.give_back: GiveBack | None = None
        self.held = 0
        self._budget = max(settings.max_buffered_bytes, settings.max_body_bytes)
        self._holders: OrderedDict[GatedConnection, int] = OrderedDict()
        self._paused: set[GatedConnection] = set()

    def hold(self, connection: GatedConnection, size: int) -> None:
        """Account for all that `connection` buffers: now `size` bytes."""
        self.held += size - self._holders.get(connection, 0)
        if size:
            self._holders[connection] = size
        else:
            self._holders.pop(connection, None)
            if connection in self._paused:
                self._resume({connection})
        while self.held > self._budget and len(self._holders) > 1:
            next(reversed(self._holders)).shed()
        if self.held > self._budget * _PAUSE_SHARE:
            oldest = next(iter(self._holders))
            if connection in self._holders and connection is not oldest:
                self._paused.add(connection)
                connection.pause()
            self._resume(self._paused & {oldest})
        elif self._paused:
            self._resume(self._paused)

    def _resume(self, connections: set[GatedConnection]) -> None:
        self._paused = self._paused - connections
        for connection in connections:
            connection.resume()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sweep from now on, for as long as `loop` runs."""
        loop.call_later(_SWEEP_SECONDS, self.start, loop)
        now = perf_counter()
        for connection in list(self.connections):
            connection.sweep(now)
        self.vitals.buffered_bytes = self.held
        self.vitals.beats += 1

    def drain(self) -> None:
        """Ask every client to leave: its next reply is its connection's last."""
        self.draining = True
        for connection in list(self.connections):
            connection.shutdown()


def allowance(base: float, size: int) -> float:
    """Seconds that moving `size` bytes may take: `base`, and one more for each 64 KiB."""
    return base + size / 65536

"""What clients ask, what becomes of each request, and the journal in which every one of them ends exactly once."""

import json
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

HOST = "127.0.0.1"

# What became of a request that has no whole reply; of any other, the status says it.
UNSENT = 0
"""Nothing of it was written: refused, reset before that, or no connection was free."""
LOST = 1
"""Written, at least in part, and not answered whole."""

_COLUMNS = 6
_REPLIED = 100

Vector = NDArray[np.float64]
Choice = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, and the replies that it may get; any body will do where there are none."""

    path: str = "/predict"
    body: bytes = b'{"features":[1.5,2.25,-0.75,4.0]}'
    status: int = 200
    replies: tuple[bytes, ...] = (b'{"prediction":-1.6875,"status":"success"}',)
    deadline_ms: int | None = None

    def wire(self, *, keeps: bool) -> bytes:
        """The bytes of the request, of a client that keeps its connection or says that it does not."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json"]
        if self.deadline_ms is not None:
            lines.append(f"X-Request-Timeout-Ms: {self.deadline_ms}")
        if not keeps:
            lines.append("Connection: close")
        return "\r\n".join([*lines, f"Content-Length: {len(self.body)}", "", ""]).encode() + self.body


def ask_of(model: str, row: Sequence[float], *, status: int = 200, deadline_ms: int | None = None) -> Ask:
    """A row for a model of which any answer will do."""
    body = json.dumps({"features": list(row)}, separators=(",", ":")).encode()
    return Ask(f"/models/{model}/predict", body, status, (), deadline_ms)


class Reply:
    """A reply as it arrives."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._end = 0
        self.status = 0
        self.closes = False
        """Whether the server ends the connection with it."""

    def take(self, data: bytes) -> bool:
        """Take what has arrived; whether the reply is whole."""
        self._received += data
        if not self.status:
            head, found, _ = self._received.partition(b"\r\n\r\n")
            if not found:
                return False
            lines = bytes(head).lower().split(b"\r\n")
            self.status = int(lines[0].split()[1])
            self.closes = b"connection: close" in lines
            lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
            self._end = len(head) + len(found) + (lengths[0] if lengths else 0)
        return len(self._received) >= self._end

    def answers(self, ask: Ask) -> bool:
        """Whether the whole reply is the one that should come, and nothing follows it."""
        body = self._received.partition(b"\r\n\r\n")[2]
        expected = not ask.replies or bytes(body) in ask.replies
        return self.status == ask.status and len(self._received) == self._end and expected


@dataclass(frozen=True, slots=True)
class Journal:
    """Every request that clients had to send, in the order of their ends; times are of the monotonic clock."""

    table: Vector
    """A row for each request: the columns that the properties name."""

    @classmethod
    def of(cls, entries: "array[float]") -> Self:
        """The journal of entries as the clients wrote them, one after the other."""
        return cls(np.frombuffer(entries, np.float64).reshape(-1, _COLUMNS))

    @property
    def client(self) -> Vector:
        """The number of the client."""
        return self.table[:, 0]

    @property
    def began(self) -> Vector:
        """When it was, or should have been, sent."""
        return self.table[:, 1]

    @property
    def ended(self) -> Vector:
        """When the reply was whole, or it was clear that none would come."""
        return self.table[:, 2]

    @property
    def outcome(self) -> Vector:
        """UNSENT, LOST, or the status of the reply."""
        return self.table[:, 3]

    @property
    def good(self) -> Choice:
        """Whether the reply is the one that should come."""
        good: Choice = self.table[:, 4] != 0
        return good

    @property
    def port(self) -> Vector:
        """The client's port of the connection; 0 where there was none."""
        return self.table[:, 5]

    def where(self, chosen: Choice) -> "Journal":
        """The chosen requests only."""
        return Journal(self.table[chosen])

    def begun(self, start: float, end: float = float("inf")) -> "Journal":
        """Those that were sent from `start` on and before `end`."""
        return self.where((self.began >= start) & (self.began < end))

    def over(self, start: float, end: float) -> "Journal":
        """Those that were under way at some time between `start` and `end`."""
        return self.where((self.ended >= start) & (self.began < end))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def lost(self) -> "Journal":
        """Those that were sent and not answered."""
        return self.where(self.outcome == LOST)

    @property
    def unsent(self) -> int:
        """How many were refused before anything of them was written."""
        return int((self.outcome == UNSENT).sum())

    @property
    def wrong(self) -> int:
        """How many got another reply than they should."""
        return int(((self.outcome >= _REPLIED) & ~self.good).sum())

    @property
    def answered(self) -> int:
        """How many got the reply that they should."""
        return int(self.good.sum())

    def statuses(self) -> str:
        """How many replies there were of each status that should not have come."""
        bad = Counter(int(status) for status in self.outcome[(self.outcome >= _REPLIED) & ~self.good])
        return ", ".join(f"{count} times {status}" for status, count in sorted(bad.items()))

    def longest_silence(self, start: float, end: float) -> float:
        """The longest time between `start` and `end` without a good reply, in seconds."""
        ends = self.ended[self.good]
        inside = np.sort(ends[(ends > start) & (ends < end)])
        return float(np.diff(np.concatenate(([start], inside, [end]))).max())


def entry(client: int, began: float, ended: float, outcome: int, *, good: bool, port: int) -> Sequence[float]:
    """One request as the journal keeps it."""
    return (client, began, ended, outcome, good, port)

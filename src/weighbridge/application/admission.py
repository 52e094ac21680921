"""Who may join a queue: those who, by the measured times, will be served soon enough."""

from weighbridge.domain.errors import WeighbridgeError

SHORT = 0.0002
"""Mean service time, in seconds, below which requests need no queue: to serve one is soon done."""

_WEIGHT = 0.05
_MOST_TIMES_THE_MEAN = 10
_MOST_AT_FIRST = 0.0004
_SHORTEST_CALL = 1e-6
_WEIGHT_OF_A_CALL = 0.1


class Overloaded(WeighbridgeError):
    """A request would wait too long."""

    def __init__(self) -> None:
        super().__init__("The server is overloaded; retry later")


class ServiceTime:
    """The mean of the seconds that requests of one kind take; the last twenty or so count most.

    No request counts as more than ten times the mean: a hiccup of the machine does not make a fast model a slow one,
    while one that is slow is known as such after a few calls.
    """

    __slots__ = ("mean",)

    def __init__(self) -> None:
        self.mean = 0.0

    def observe(self, seconds: float) -> None:
        """Take one request into the mean."""
        mean = self.mean
        most = mean * _MOST_TIMES_THE_MEAN + _MOST_AT_FIRST
        if seconds < most:
            self.mean = mean + (seconds - mean) * _WEIGHT
        else:
            self.mean = mean + (most - mean) * _WEIGHT


class Admission:
    """Admits requests for as long as those that wait already will not keep them too long.

    `max_wait` is the longest wait in seconds. Half of the time that a request has left bounds it, too: an answer that
    comes too late costs as much as one in time, and is worth nothing.
    """

    def __init__(self, *, max_wait: float) -> None:
        self._max_wait = max_wait
        self._waiting: dict[ServiceTime, int] = {}

    @property
    def estimated_wait(self) -> float:
        """Seconds until all that waits will have been served."""
        wait = 0.0
        for service_time, count in self._waiting.items():
            wait += service_time.mean * count
        return wait

    def admits(self, time_left: float) -> bool:
        """Whether to admit a request that must be answered in `time_left` seconds; always when nothing waits."""
        return self.estimated_wait <= min(self._max_wait, time_left / 2)

    def enter(self, service_time: ServiceTime) -> None:
        """A request of this kind waits from now on."""
        self._waiting[service_time] = self._waiting.get(service_time, 0) + 1

    def leave(self, service_time: ServiceTime) -> None:
        """A request of this kind waits no longer: it is served, or given up."""
        self._waiting[service_time] -= 1


class Pace:
    """How long calls of a model take: at first as measured when it was opened, then as they go.

    A call of n rows takes `call_seconds` and n times `row_seconds`, times a factor that follows the last calls. No call
    counts as more than ten times the usual: a hiccup of the machine does not make a fast model a slow one.
    """

    def __init__(self, call_seconds: float, row_seconds: float) -> None:
        self._call = max(call_seconds, _SHORTEST_CALL)
        self._row = row_seconds
        self._factor = 1.0

    def seconds(self, calls: int, rows: int) -> float:
        """How long so many calls take that have so many rows together."""
        return (calls * self._call + rows * self._row) * self._factor

    def observe(self, rows: int, seconds: float) -> None:
        """Take a call into account."""
        ratio = min(seconds / (self._call + rows * self._row), self._factor * _MOST_TIMES_THE_MEAN)
        self._factor += (ratio - self._factor) * _WEIGHT_OF_A_CALL

"""What a worker counts: every request, once, whichever road it took. `exposition.py` is how Prometheus reads it.

Only the event loop may count: nothing is locked.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from typing_extensions import Buffer

from weighbridge.adapters.series import BOUNDS, SECONDS, Key, Table, Values
from weighbridge.application.catalogue import EMBEDDED

REQUEST, STAGE, QUEUE_WAIT, SHED, EXPIRED, ABANDONED = "request", "stage", "queue_wait", "shed", "expired", "abandoned"
"""The families of series in the table."""

UNROUTED = "other"
"""The route of requests that no route took: made-up paths must not make new series."""

_LARGEST_SUCCESS = 399
_LARGEST_REFUSAL = 499

SERIES_KEPT_SECONDS = 300.0
"""For how long after its end the series of a version are kept: Prometheus is to have seen the last of them."""

LabelT = TypeVar("LabelT")


class ModelLabel(NamedTuple):
    """A model that answers requests; both texts are empty where there is none."""

    name: str
    version: str


NO_MODEL = ModelLabel("", "")
EMBEDDED_LABEL = ModelLabel(EMBEDDED.name, EMBEDDED.versions[0].version)


class Durations:
    """A histogram of seconds: plain numbers, for prometheus_client's own takes a lock with each observation."""

    __slots__ = ("__weakref__", "_open", "_values")

    def __init__(self, open_series: Callable[[], Values]) -> None:
        self._open = open_series
        self._values: Values | None = open_series()

    def observe(self, seconds: float) -> None:
        """Count one, and how long it took."""
        values = self._values
        if values is None:
            values = self._values = self._open()
        values[bisect_left(BOUNDS, seconds)] += 1
        values[SECONDS] += seconds

    def forget(self) -> None:
        """Write no more to the series that it has; it is opened anew when there is something to count."""
        self._values = None


class Stages(NamedTuple):
    """The stages of a request, whose names are the fields'."""

    read: Durations
    score: Durations
    write: Durations


class SeriesBy(dict[LabelT, Values], Generic[LabelT]):
    """Series that differ in one label, each opened when it is first asked for."""

    def __init__(self, open_series: Callable[[LabelT], Values]) -> None:
        super().__init__()
        self._open = open_series

    def __missing__(self, label: LabelT) -> Values:
        values = self[label] = self._open(label)
        return values


class RouteMetrics(SeriesBy[int]):
    """The requests of one route, which a `model` answers, by status."""

    def __init__(self, open_series: Callable[[int], Values], model: ModelLabel) -> None:
        super().__init__(open_series)
        self.model = model

    def observe(self, status: int, seconds: float) -> None:
        """Count one request: how it ended and how long it took."""
        values = self[status]  # and no Durations: on the hot path, a call more would be felt
        values[bisect_left(BOUNDS, seconds)] += 1
        values[SECONDS] += seconds


class RequestMetrics:
    """The requests of one worker, counted in `memory` as `Table` wants it, which others may read.

    What it gives may be held for as long as there is something to count, though the series be given up meanwhile.
    """

    def __init__(self, memory: Buffer) -> None:
        self._table = Table(memory)
        self._routes = WeakValueDictionary[tuple[str, ModelLabel], RouteMetrics]()
        self._durations = WeakValueDictionary[Key, Durations]()
        self._shed = SeriesBy[str](partial(self._table.series, SHED))
        self._expired = self._table.series(EXPIRED)
        self._abandoned = self._table.series(ABANDONED)

    def route(self, path: str, model: ModelLabel = NO_MODEL) -> RouteMetrics:
        """The requests of the route with this path template, or of `UNROUTED`, that a model answers."""
        route = self._routes.get((path, model))
        if route is None:
            route = self._routes[path, model] = RouteMetrics(
                lambda status: self._table.series(REQUEST, path, *model, _outcome(status), str(status)), model
            )
        return route

    def stages(self, path: str, model: ModelLabel = NO_MODEL) -> Stages:
        """How long each stage takes of a request to the route with this path template."""
        return Stages(*(self._durations_of(STAGE, path, *model, stage) for stage in Stages._fields))

    def queue_wait(self, model: ModelLabel) -> Durations:
        """How long requests wait before the model takes them up."""
        return self._durations_of(QUEUE_WAIT, *model)

    def _durations_of(self, *key: str) -> Durations:
        durations = self._durations.get(key)
        if durations is None:
            durations = self._durations[key] = Durations(partial(self._table.series, *key))
        return durations

    def forget(self, model: ModelLabel) -> None:
        """Give up the series of a version; whoever counts for it later begins at zero."""
        for (_, of), route in self._routes.items():
            if of == model:
                route.clear()
        for key, durations in self._durations.items():
            if of_version(key) == model:
                durations.forget()
        self._table.release(lambda key: of_version(key) == model)

    def shed(self, reason: str) -> None:
        """Count a request that was refused because there were too many."""
        self._shed[reason][0] += 1

    def expired(self) -> None:
        """Count a request whose deadline passed before it was answered."""
        self._expired[0] += 1

    def abandoned(self) -> None:
        """Count a request whose client went away before it had sent all of it, or before its turn came."""
        self._abandoned[0] += 1


def of_version(key: Key) -> tuple[str, ...] | None:
    """The model and version that a series is of, if it is of any."""
    match key:
        case (("request" | "stage"), _, model, version, *_) | ("queue_wait", model, version):
            return model, version
    return None


def _outcome(status: int) -> str:
    if status <= _LARGEST_SUCCESS:
        return "success"
    return "refused" if status <= _LARGEST_REFUSAL else "failed"

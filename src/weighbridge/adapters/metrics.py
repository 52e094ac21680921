"""What is counted, and how Prometheus reads it: exact over all requests, whichever road they took."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histogram's buckets, in seconds."""

MODEL_ROUTES = {"/predict": "default", "/predict/batch": "default"}
UNROUTED = "other"
"""The route of requests that no route took: made-up paths must not make new series."""

_LARGEST_SUCCESS = 399
_LARGEST_REFUSAL = 499


class Durations:
    """A histogram of seconds: plain numbers, for prometheus_client's own takes a lock with each observation."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0


class RouteMetrics(defaultdict[int, Durations]):
    """The requests of one route, by status."""

    def __init__(self) -> None:
        super().__init__(Durations)

    def observe(self, status: int, seconds: float) -> None:
        """Count one request: how it ended and how long it took."""
        durations = self[status]
        durations.buckets[bisect_left(BOUNDS, seconds)] += 1
        durations.total += seconds


class RequestMetrics:
    """The requests of all routes, as a collector of prometheus_client."""

    def __init__(self) -> None:
        self.abandoned = 0
        self._routes: dict[str, RouteMetrics] = {}

    def route(self, path: str) -> RouteMetrics:
        """The requests of the route with this path template, or of `UNROUTED`."""
        return self._routes.setdefault(path, RouteMetrics())

    def collect(self) -> Iterator[Metric]:
        """The families of series, as Prometheus names them."""
        requests = CounterMetricFamily(
            "weighbridge_requests",
            "Requests, by how they ended.",
            labels=("route", "model", "outcome", "status"),
        )
        durations = HistogramMetricFamily(
            "weighbridge_request_duration_seconds",
            "Time from a whole request to its reply.",
            labels=("route", "model", "outcome"),
        )
        for path, route in list(self._routes.items()):
            model = MODEL_ROUTES.get(path, "")
            by_outcome: dict[str, Durations] = {}
            for status, counted in list(route.items()):
                outcome = _outcome(status)
                requests.add_metric((path, model, outcome, str(status)), sum(counted.buckets))
                merged = by_outcome.setdefault(outcome, Durations())
                merged.buckets = [a + b for a, b in zip(merged.buckets, counted.buckets, strict=True)]
                merged.total += counted.total
            for outcome, merged in by_outcome.items():
                durations.add_metric((path, model, outcome), _cumulative(merged), merged.total)
        yield requests
        yield CounterMetricFamily(
            "weighbridge_requests_abandoned", "Requests whose client went away before it had sent them.", self.abandoned
        )
        yield durations

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)


def _outcome(status: int) -> str:
    if status <= _LARGEST_SUCCESS:
        return "success"
    return "refused" if status <= _LARGEST_REFUSAL else "failed"


def _cumulative(durations: Durations) -> list[tuple[str, float]]:
    buckets, seen = [], 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), durations.buckets, strict=True):
        seen += count
        buckets.append((bound, float(seen)))
    return buckets

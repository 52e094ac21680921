"""How Prometheus reads what workers count: summed over them all, exactly, those included that are gone."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from typing_extensions import Buffer

from weighbridge.adapters.metrics import ABANDONED, EXPIRED, QUEUE_WAIT, REQUEST, SHED, STAGE, of_version
from weighbridge.adapters.series import BOUNDS, SECONDS, Key, read

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_BUCKETS = (*map(str, BOUNDS), "+Inf")
_OF_A_MODEL = ("route", "model", "version")


@dataclass(frozen=True, slots=True)
class Sum:
    """The values of one series over several workers.

    Sums of seconds are fractions: rounded, they would depend on the order, and one that went down by the last bit when
    a worker is gone would be a restart of the counter to Prometheus.
    """

    counts: Sequence[float]
    seconds: Fraction

    def __add__(self, other: "Sum") -> "Sum":
        counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return Sum(counts, self.seconds + other.seconds)


_NOTHING = Sum([0.0] * SECONDS, Fraction(0))


class Totals:
    """What workers have counted since the supervisor started."""

    def __init__(self) -> None:
        # What has no labels is there from the start, at zero.
        self._gone: dict[Key, Sum] = {(EXPIRED,): _NOTHING, (ABANDONED,): _NOTHING}

    def absorb(self, memory: Buffer) -> None:
        """Add for good what a worker that has ended left in its memory, which is no more to be given to the others."""
        self._gone = _with(self._gone, memory)

    def forget(self, model: str, version: str) -> None:
        """Give up what workers that have ended counted for a version."""
        self._gone = {key: total for key, total in self._gone.items() if of_version(key) != (model, version)}

    def exposition(self, memories: Iterable[Buffer], more: Iterable[Metric] = ()) -> bytes:
        """The text that Prometheus scrapes, of the media type `MEDIA_TYPE`: `families`, and `more` after them."""
        return generate_latest(_Families([*self.families(memories), *more]))

    def families(self, memories: Iterable[Buffer]) -> Iterator[Metric]:
        """The families of series, as Prometheus names them, over the workers with these memories and all gone."""
        sums = self._gone
        for memory in memories:
            sums = _with(sums, memory)
        of: defaultdict[str, dict[Key, Sum]] = defaultdict(dict)
        for (family, *labels), total in sorted(sums.items(), key=lambda item: item[0]):
            of[family][tuple(labels)] = total
        yield _counter("requests", "Requests, by how they ended.", (*_OF_A_MODEL, "outcome", "status"), of[REQUEST])
        yield _histogram(
            "request_duration", "Time from a whole request to its reply.", (*_OF_A_MODEL, "outcome"), of[REQUEST]
        )
        yield _histogram("stage_duration", "Time of one stage, of a sample.", (*_OF_A_MODEL, "stage"), of[STAGE])
        yield _histogram("queue_wait", "Time before a model takes a request up.", ("model", "version"), of[QUEUE_WAIT])
        yield _counter("requests_shed", "Requests refused because there were too many.", ("reason",), of[SHED])
        yield _counter("requests_expired", "Requests whose deadline passed before an answer.", (), of[EXPIRED])
        yield _counter(
            "requests_abandoned", "Requests whose client went away before it had sent them.", (), of[ABANDONED]
        )


@dataclass(frozen=True, slots=True)
class _Families(Collector):
    """Families, as prometheus_client asks for them."""

    families: list[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def _with(sums: Mapping[Key, Sum], memory: Buffer) -> dict[Key, Sum]:
    added = dict(sums)
    for key, values in read(memory):
        added[key] = added.get(key, _NOTHING) + Sum(values[:SECONDS], Fraction(values[SECONDS]))
    return added


def _counter(name: str, meaning: str, labels: Sequence[str], sums: Mapping[Key, Sum]) -> Metric:
    family = CounterMetricFamily(f"weighbridge_{name}", meaning, labels=labels)
    for key, total in sums.items():
        family.add_metric(key, sum(total.counts))
    return family


def _histogram(name: str, meaning: str, labels: Sequence[str], sums: Mapping[Key, Sum]) -> Metric:
    """The family of durations; series that differ only in what `labels` does not name are one."""
    family = HistogramMetricFamily(f"weighbridge_{name}_seconds", meaning, labels=labels)
    merged: dict[Key, Sum] = {}
    for key, total in sums.items():
        shorter = key[: len(labels)]
        merged[shorter] = merged.get(shorter, _NOTHING) + total
    for key, total in merged.items():
        family.add_metric(key, list(zip(_BUCKETS, accumulate(total.counts), strict=True)), float(total.seconds))
    return family

"""What Prometheus reads about models: which version of each is live, and what became of operations."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

Operation = tuple[str, str, str]
"""A model, what was asked for, and the outcome."""


def model_families(live: Mapping[str, str], operations: Mapping[Operation, int]) -> Iterator[Metric]:
    """The families of series about models, which are those that there are: no made-up name makes a series."""
    info = GaugeMetricFamily("weighbridge_model_info", "The live version of a model.", labels=("model", "version"))
    for of in live.items():
        info.add_metric(of, 1)
    yield info
    counter = CounterMetricFamily(
        "weighbridge_model_operations",
        "Operations on models, by how they ended.",
        labels=("model", "operation", "outcome"),
    )
    for operation, count in operations.items():
        counter.add_metric(operation, count)
    yield counter

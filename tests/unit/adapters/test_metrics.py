"""What is counted for a version, and how that is given up when the version has ended."""

from typing import NamedTuple

from weighbridge.adapters.metrics import Durations, ModelLabel, RequestMetrics, RouteMetrics
from weighbridge.adapters.series import MEMORY_BYTES, SECONDS, read

PATH = "/models/{name}/predict"
ONE, TWO = ModelLabel("churn", "1"), ModelLabel("churn", "2")


def counted(memory: bytearray) -> dict[tuple[str, ...], float]:
    """How many were counted in each series that has any."""
    counts = {key: sum(values[:SECONDS]) for key, values in read(memory)}
    return {key: count for key, count in counts.items() if count}


class Held(NamedTuple):
    """What a route holds to count its requests."""

    route: RouteMetrics
    read: Durations
    waits: Durations


def counting(metrics: RequestMetrics, model: ModelLabel) -> Held:
    return Held(metrics.route(PATH, model), metrics.stages(PATH, model).read, metrics.queue_wait(model))


def count(held: Held) -> None:
    """Count one request."""
    held.route.observe(200, 0.5)
    held.read.observe(0.5)
    held.waits.observe(0.5)


def test_a_route_is_counted_in_one_place_whoever_asks_for_it() -> None:
    memory = bytearray(MEMORY_BYTES)
    metrics = RequestMetrics(memory)

    for _ in range(3):
        metrics.route(PATH, ONE).observe(200, 0.5)

    assert counted(memory) == {("request", PATH, "churn", "1", "success", "200"): 3}


def test_what_was_counted_for_a_version_is_forgotten_and_for_others_it_is_not() -> None:
    memory = bytearray(MEMORY_BYTES)
    metrics = RequestMetrics(memory)
    for model in (ONE, TWO):
        count(counting(metrics, model))
    metrics.route("/health").observe(200, 0.5)
    metrics.shed("queue")

    metrics.forget(ONE)

    assert counted(memory) == {
        ("request", PATH, "churn", "2", "success", "200"): 1,
        ("stage", PATH, "churn", "2", "read"): 1,
        ("queue_wait", "churn", "2"): 1,
        ("request", "/health", "", "", "success", "200"): 1,
        ("shed", "queue"): 1,
    }


def test_what_is_held_of_a_forgotten_version_counts_anew_and_in_nobody_elses_series() -> None:
    memory = bytearray(MEMORY_BYTES)
    metrics = RequestMetrics(memory)
    held = counting(metrics, ONE)
    count(held)
    count(counting(metrics, TWO))

    metrics.forget(ONE)
    metrics.forget(ONE)
    expected = counted(memory)
    metrics.queue_wait(ModelLabel("fraud", "1"))  # which takes the place of a series that was given up
    count(held)

    assert counted(memory) == expected | {
        ("request", PATH, "churn", "1", "success", "200"): 1,
        ("stage", PATH, "churn", "1", "read"): 1,
        ("queue_wait", "churn", "1"): 1,
    }


def test_a_thousand_versions_that_come_and_go_find_room() -> None:
    memory = bytearray(MEMORY_BYTES)
    metrics = RequestMetrics(memory)

    for number in range(1000):
        model = ModelLabel("churn", str(number))
        count(counting(metrics, model))
        assert set(counted(memory).values()) == {1}
        metrics.forget(model)

    assert counted(memory) == {}

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from weighbridge.adapters.exposition import Totals
from weighbridge.adapters.metrics import EMBEDDED_LABEL, UNROUTED, ModelLabel, RequestMetrics
from weighbridge.adapters.series import BOUNDS, MEMORY_BYTES

Observe = Callable[[RequestMetrics], None]
"""Something that a worker counts."""

PREDICT = 'model="default",{}route="/predict",{}version="embedded"'


def observations(seconds: st.SearchStrategy[float]) -> st.SearchStrategy[list[Observe]]:
    """Of all kinds."""
    paths = st.sampled_from(["/predict", "/predict/batch", "/health", UNROUTED])
    statuses = st.sampled_from([200, 204, 400, 422, 500, 503])
    models = st.builds(ModelLabel, st.sampled_from("abc"), st.sampled_from("12"))
    stages = st.sampled_from(["read", "score", "write"])
    reasons = st.sampled_from(["queue", "buffers"])
    return st.lists(
        st.one_of(
            st.builds(lambda path, status, s: lambda m: m.route(path).observe(status, s), paths, statuses, seconds),
            st.builds(lambda stage, s: lambda m: getattr(m.stages("/predict"), stage).observe(s), stages, seconds),
            st.builds(lambda model, s: lambda m: m.queue_wait(model).observe(s), models, seconds),
            st.builds(lambda reason: lambda m: m.shed(reason), reasons),
            st.sampled_from([RequestMetrics.expired, RequestMetrics.abandoned]),
        ),
        max_size=20,
    )


def waiting(seconds: float) -> Observe:
    """One wait in the queue."""
    return lambda metrics: metrics.queue_wait(EMBEDDED_LABEL).observe(seconds)


ROUND = st.integers(0, 20 * 1024).map(lambda n: n / 1024)  # these are added without rounding
ANY = st.floats(0, 20)


def counted(observed: Sequence[Observe]) -> bytearray:
    """The memory of a worker that has counted these."""
    memory = bytearray(MEMORY_BYTES)
    metrics = RequestMetrics(memory)
    for observe in observed:
        observe(metrics)
    return memory


def samples(*observed: Observe) -> dict[str, float]:
    """What a scrape gives after these, by name and labels as Prometheus writes them."""
    lines = Totals().exposition([counted(observed)]).decode().splitlines()
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


# Over workers


@given(st.lists(observations(ROUND), max_size=4))
def test_the_sum_over_workers_is_what_one_worker_would_have_counted(workers: list[list[Observe]]) -> None:
    everything = [observe for observed in workers for observe in observed]

    assert Totals().exposition(map(counted, workers)) == Totals().exposition([counted(everything)])


@given(st.lists(st.tuples(observations(ANY), st.booleans()), max_size=4))
def test_a_worker_that_is_gone_still_counts_to_the_last_bit(workers: list[tuple[list[Observe], bool]]) -> None:
    memories = [(counted(observed), gone) for observed, gone in workers]
    before = Totals().exposition(memory for memory, _ in memories)
    totals = Totals()
    for memory, gone in memories:
        if gone:
            totals.absorb(memory)

    assert totals.exposition(memory for memory, gone in memories if not gone) == before


def test_the_sum_of_seconds_does_not_fall_by_its_last_bit_when_workers_go() -> None:
    one, two, three = (counted([waiting(seconds)]) for seconds in (0.1, 0.2, 0.3))
    before = Totals().exposition([one, two, three])
    totals = Totals()
    totals.absorb(two)
    totals.absorb(three)

    assert totals.exposition([one]) == before
    assert b'_sum{model="default",version="embedded"} 0.6\n' in before


def test_reading_changes_nothing() -> None:
    totals, memory = Totals(), counted([RequestMetrics.expired])
    totals.absorb(memory)

    assert totals.exposition([memory]) == totals.exposition([memory])


# What is counted


def test_before_anything_happens_every_family_is_announced_and_what_has_no_labels_is_zero() -> None:
    text = Totals().exposition([]).decode()

    assert [(family.name, family.type) for family in text_string_to_metric_families(text)] == [
        ("weighbridge_requests", "counter"),
        ("weighbridge_request_duration_seconds", "histogram"),
        ("weighbridge_stage_duration_seconds", "histogram"),
        ("weighbridge_queue_wait_seconds", "histogram"),
        ("weighbridge_requests_shed", "counter"),
        ("weighbridge_requests_expired", "counter"),
        ("weighbridge_requests_abandoned", "counter"),
    ]
    assert [line for line in text.splitlines() if line[0] != "#"] == [
        "weighbridge_requests_expired_total 0.0",
        "weighbridge_requests_abandoned_total 0.0",
    ]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "success"), (399, "success"), (400, "refused"), (499, "refused"), (500, "failed"), (504, "failed")],
)
def test_a_request_is_counted_by_its_status_and_its_outcome(status: int, outcome: str) -> None:
    counts = samples(lambda metrics: metrics.route("/predict", EMBEDDED_LABEL).observe(status, 0.5))

    of_an_outcome = PREDICT.format(f'outcome="{outcome}",', "")
    with_status = PREDICT.format(f'outcome="{outcome}",', f'status="{status}",')
    assert counts[f"weighbridge_requests_total{{{with_status}}}"] == 1
    assert counts[f"weighbridge_request_duration_seconds_count{{{of_an_outcome}}}"] == 1
    assert counts[f"weighbridge_request_duration_seconds_sum{{{of_an_outcome}}}"] == 0.5


def test_the_durations_of_one_outcome_are_one_histogram_whatever_the_status() -> None:
    counts = samples(
        lambda metrics: metrics.route("/predict", EMBEDDED_LABEL).observe(200, 0.25),
        lambda metrics: metrics.route("/predict", EMBEDDED_LABEL).observe(204, 1.0),
        lambda metrics: metrics.route("/predict", EMBEDDED_LABEL).observe(500, 8.0),
    )

    success = PREDICT.format('outcome="success",', "")
    assert counts[f"weighbridge_request_duration_seconds_count{{{success}}}"] == 2
    assert counts[f"weighbridge_request_duration_seconds_sum{{{success}}}"] == 1.25


@pytest.mark.parametrize(
    ("seconds", "le"),
    [(0.0, "0.0001"), *((bound, str(bound)) for bound in BOUNDS), (0.0007, "0.001"), (10.5, "+Inf"), (1e9, "+Inf")],
)
def test_a_duration_is_in_its_bucket_and_in_all_above(seconds: float, le: str) -> None:
    counts = samples(waiting(seconds))

    buckets = {
        bound: counts[f'weighbridge_queue_wait_seconds_bucket{{le="{bound}",model="default",version="embedded"}}']
        for bound in (*map(str, BOUNDS), "+Inf")
    }
    assert {bound for bound, count in buckets.items() if count} == {
        bound for bound in buckets if float(bound) >= float(le)
    }


def test_a_route_without_a_model_names_none() -> None:
    counts = samples(lambda metrics: metrics.route("/health").observe(200, 0.0))

    labels = 'model="",outcome="success",route="/health",status="200",version=""'
    assert counts[f"weighbridge_requests_total{{{labels}}}"] == 1


@pytest.mark.parametrize("stage", ["read", "score", "write"])
def test_each_stage_has_its_histogram(stage: str) -> None:
    counts = samples(lambda metrics: getattr(metrics.stages("/predict", EMBEDDED_LABEL), stage).observe(0.5))

    for of in ("read", "score", "write"):
        labels = PREDICT.format("", f'stage="{of}",')
        assert counts[f"weighbridge_stage_duration_seconds_sum{{{labels}}}"] == (0.5 if of == stage else 0)


def test_what_is_shed_expires_or_is_abandoned_is_counted() -> None:
    counts = samples(
        lambda metrics: metrics.shed("queue"),
        lambda metrics: metrics.shed("buffers"),
        lambda metrics: metrics.shed("queue"),
        RequestMetrics.expired,
        *[RequestMetrics.abandoned] * 4,
    )

    assert counts == {
        'weighbridge_requests_shed_total{reason="buffers"}': 1,
        'weighbridge_requests_shed_total{reason="queue"}': 2,
        "weighbridge_requests_expired_total": 1,
        "weighbridge_requests_abandoned_total": 4,
    }


def test_more_families_come_after_those_of_the_requests() -> None:
    text = Totals().exposition([], [GaugeMetricFamily("weighbridge_answer", "The answer.", 42)]).decode()

    assert text.endswith(
        "# HELP weighbridge_answer The answer.\n# TYPE weighbridge_answer gauge\nweighbridge_answer 42.0\n"
    )


def test_what_workers_that_are_gone_counted_for_a_version_is_forgotten_and_for_others_it_is_not() -> None:
    kept: list[Observe] = [
        lambda metrics: metrics.route("/predict", ModelLabel("a", "2")).observe(200, 0.5),
        lambda metrics: metrics.queue_wait(ModelLabel("b", "1")).observe(0.5),
        lambda metrics: metrics.route("/health").observe(200, 0.5),
        RequestMetrics.expired,
    ]
    forgotten: list[Observe] = [
        lambda metrics: metrics.route("/predict", ModelLabel("a", "1")).observe(200, 0.5),
        lambda metrics: metrics.stages("/predict", ModelLabel("a", "1")).score.observe(0.5),
        lambda metrics: metrics.queue_wait(ModelLabel("a", "1")).observe(0.5),
    ]
    totals, others = Totals(), Totals()
    totals.absorb(counted([*kept, *forgotten]))
    others.absorb(counted(kept))

    totals.forget("a", "1")

    assert totals.exposition([]) == others.exposition([])

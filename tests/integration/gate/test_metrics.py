"""Every request is counted, once, whichever road it took and however it ended."""

from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.service import Service, serving
from tests.integration.wire import get, head, post, wire
from tests.waiting import until

Labels = tuple[str, str, str, str]
"""Route, model, outcome and status."""

HEAD = head(b"HEAD", b"/health")
THE_READING = ("/metrics", "", "success", "200")
MADE_UP = 10_000


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast lane", "ordinary road"])
def quiet(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service that nobody else asks."""
    with serving(FAST_LANE=request.param, LOG_REQUESTS="none") as started:
        yield started


ASKED: list[tuple[bytes, int, Labels]] = [
    (post(b"/predict"), 7, ("/predict", "default", "success", "200")),
    (post(b"/predict?x=1"), 2, ("/predict", "default", "success", "200")),
    (post(b"/predict", body=b"{}"), 3, ("/predict", "default", "refused", "422")),
    (post(b"/predict", body=b'{"features":[1]}'), 2, ("/predict", "default", "refused", "400")),
    (head(b"POST", b"/predict"), 1, ("/predict", "default", "refused", "415")),
    (post(b"/predict/batch", body=b'{"instances":[[1,2,3,4]]}'), 4, ("/predict/batch", "default", "success", "200")),
    (post(b"/predict/batch", body=b'{"instances":[]}'), 2, ("/predict/batch", "default", "refused", "422")),
    (get(b"/health"), 5, ("/health", "", "success", "200")),
    (HEAD, 3, ("/health", "", "success", "200")),
    (get(b"/livez"), 1, ("/livez", "", "success", "200")),
    (get(b"/docs/assets/favicon.png"), 1, ("/docs/assets/{name}", "", "success", "200")),
    (get(b"/docs/assets/nothing"), 2, ("/docs/assets/{name}", "", "refused", "404")),
    (get(b"/nothing"), 2, ("other", "", "refused", "404")),
    (head(b"OPTIONS", b"*"), 1, ("other", "", "success", "204")),
    (get(b"/health", b"Expect: needle"), 2, ("other", "", "refused", "417")),
    (get(b"/health", version=b"2.5"), 2, ("other", "", "failed", "505")),
    (b"\0", 1, ("other", "", "refused", "400")),
]
UNFINISHED = post(b"/predict")[:-1]


Counts = dict[str, Counter[Labels]]
"""The samples of /metrics by name and labels; of the buckets only the last counts, which holds them all."""


def counted(service: Service) -> Counts:
    samples: Counts = defaultdict(Counter)
    with wire(service) as connection:
        connection.send(get(b"/metrics"))
        families = text_string_to_metric_families(connection.reply().body.decode())
    for family in families:
        for name, labels, value, *_ in family.samples:
            key = (
                labels.get("route", ""),
                labels.get("model", ""),
                labels.get("outcome", ""),
                labels.get("status", ""),
            )
            samples[name][key] = int(value)
    return samples


def increase(name: str, before: Counts, after: Counts) -> Counter[Labels]:
    """What was counted between the two, but for the reading of the first."""
    return Counter({labels: n for labels, n in (after[name] - before[name]).items() if labels[0] != THE_READING[0]})


def test_every_request_is_counted_once(quiet: Service) -> None:
    before = counted(quiet)
    expected = Counter[Labels]()
    for request, times, labels in ASKED:
        for _ in range(times):
            with wire(quiet) as connection:
                connection.send(request)
                connection.reply("HEAD" if request is HEAD else "GET")
        expected[labels] += times
    by_outcome = Counter[Labels]()
    for (route, model, outcome, _), times in expected.items():
        by_outcome[route, model, outcome, ""] += times
    after = counted(quiet)

    assert increase("weighbridge_requests_total", before, after) == expected
    assert increase("weighbridge_request_duration_seconds_count", before, after) == by_outcome
    assert increase("weighbridge_request_duration_seconds_bucket", before, after) == by_outcome


def test_the_reading_of_the_metrics_is_counted_too(quiet: Service) -> None:
    before, after = counted(quiet), counted(quiet)

    assert after["weighbridge_requests_total"] - before["weighbridge_requests_total"] == {THE_READING: 1}


def test_requests_sent_ahead_are_all_counted(quiet: Service) -> None:
    before = counted(quiet)
    with wire(quiet) as connection:
        for _ in range(10):
            connection.send((post(b"/predict") + get(b"/nothing")) * 20)
            for _ in range(40):
                connection.reply()

    assert increase("weighbridge_requests_total", before, counted(quiet)) == {
        ("/predict", "default", "success", "200"): 200,
        ("other", "", "refused", "404"): 200,
    }


def test_requests_whose_clients_go_away_are_counted(quiet: Service) -> None:
    before = counted(quiet)
    for _ in range(5):
        with wire(quiet) as connection:
            connection.send(UNFINISHED)

    until(lambda: increase("weighbridge_requests_abandoned_total", before, counted(quiet)).total() == 5)


def test_paths_that_are_made_up_make_no_series(quiet: Service) -> None:
    before = counted(quiet)
    with wire(quiet) as connection:
        for first in range(0, MADE_UP, 50):
            connection.send(b"".join(get(b"/v2/models/made-up-%d" % number) for number in range(first, first + 50)))
            assert {connection.reply().status for _ in range(50)} == {404}
        connection.send(get(b"/" + b"n" * 9000))
        connection.reply()

    assert increase("weighbridge_requests_total", before, counted(quiet)) == {
        ("other", "", "refused", "404"): MADE_UP,
        ("other", "", "refused", "414"): 1,
    }

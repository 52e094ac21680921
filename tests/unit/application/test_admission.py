import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.application.admission import SHORT, Admission, Pace, ServiceTime

MAX_WAIT = 1.0
LONG = 1000.0
QUICK = 0.00002
SLOW = 0.005
seconds = st.floats(1e-6, 10)


def after(*observed: float) -> ServiceTime:
    """The service time of requests that took so long, the oldest first."""
    service_time = ServiceTime()
    for took in observed:
        service_time.observe(took)
    return service_time


def waiting(*service_times: ServiceTime) -> Admission:
    """Admission with a request of each service time in the queue."""
    admission = Admission(max_wait=MAX_WAIT)
    for service_time in service_times:
        admission.enter(service_time)
    return admission


@given(seconds)
def test_the_mean_of_requests_that_all_take_as_long_is_that_time(took: float) -> None:
    assert after(*[took] * 200).mean == pytest.approx(took, rel=0.01)


@given(seconds, seconds)
def test_the_mean_follows_when_the_model_becomes_faster_or_slower(before: float, now: float) -> None:
    assert after(*[before] * 200, *[now] * 600).mean == pytest.approx(now, rel=0.01)


def test_a_model_of_some_milliseconds_is_known_to_be_slow_after_a_few_requests() -> None:
    assert after(*[SLOW] * 4).mean < SHORT < after(*[SLOW] * 6).mean


def test_a_few_hiccups_do_not_make_a_quick_model_a_slow_one() -> None:
    assert after(*[QUICK] * 50, LONG, LONG, LONG).mean < SHORT


@given(st.lists(seconds, max_size=50))
def test_the_mean_is_never_beyond_what_was_observed(observed: list[float]) -> None:
    assert 0 <= after(*observed).mean <= max(observed, default=0.0)


def test_the_estimated_wait_is_the_sum_of_the_means_of_all_that_waits() -> None:
    quick, slow = after(*[SLOW] * 200), after(*[0.25] * 200)

    assert waiting(quick, quick, slow).estimated_wait == pytest.approx(0.26, rel=0.01)


def test_the_estimated_wait_follows_the_measured_times_of_what_waits_already() -> None:
    service_time = after(*[SLOW] * 200)
    admission = waiting(service_time, service_time)
    for _ in range(400):
        service_time.observe(0.1)

    assert admission.estimated_wait == pytest.approx(0.2, rel=0.01)


def test_what_is_served_or_given_up_counts_no_longer() -> None:
    service_time = after(SLOW)
    admission = waiting(service_time, service_time)
    admission.leave(service_time)
    assert admission.estimated_wait == service_time.mean

    admission.leave(service_time)
    assert admission.estimated_wait == 0.0


def test_a_request_is_admitted_while_the_estimated_wait_is_at_most_the_longest() -> None:
    half = ServiceTime()
    half.mean = MAX_WAIT / 2

    assert waiting(half, half).admits(LONG)
    assert not waiting(half, half, after(SLOW)).admits(LONG)


def test_a_request_is_admitted_while_the_estimated_wait_is_at_most_half_of_the_time_it_has_left() -> None:
    service_time = ServiceTime()
    service_time.mean = 0.05

    assert waiting(service_time).admits(0.1)
    assert not waiting(service_time).admits(0.099)


@given(st.floats(0, LONG), st.floats(0, LONG))
def test_a_request_is_always_admitted_when_nothing_waits(time_left: float, max_wait: float) -> None:
    assert Admission(max_wait=max_wait).admits(time_left)


def test_calls_take_at_first_what_was_measured_when_the_model_was_opened() -> None:
    assert Pace(0.01, 0.001).seconds(calls=3, rows=20) == pytest.approx(0.05)


@given(st.floats(0.001, 10), st.integers(1, 256))
def test_the_pace_follows_the_calls_that_are_made(took: float, rows: int) -> None:
    pace = Pace(0.01, 0.001)
    for _ in range(400):
        pace.observe(rows, took)

    assert pace.seconds(1, rows) == pytest.approx(took, rel=0.01)


def test_a_hiccup_of_one_call_is_no_more_than_ten_times_the_usual() -> None:
    pace = Pace(0.01, 0.0)
    pace.observe(1, LONG)

    assert pace.seconds(1, 1) == pytest.approx(0.019)


def test_calls_that_took_no_time_when_the_model_was_opened_have_a_pace() -> None:
    pace = Pace(0.0, 0.0)
    for _ in range(400):
        pace.observe(1, 0.01)

    assert pace.seconds(1, 1) == pytest.approx(0.01, rel=0.01)

from weighbridge.adapters.http.errors import reply_to
from weighbridge.adapters.http.problems import Canned, Problem, overloaded, retry_after
from weighbridge.application.admission import Overloaded


def test_a_canned_problem_is_the_same_as_one_that_is_made() -> None:
    canned = Canned(Problem.OVERLOADED, "expected less")

    assert [canned.reply(name) for name in ("a", "b-1")] == [
        Problem.OVERLOADED.reply("expected less", name) for name in ("a", "b-1")
    ]


def test_the_reply_to_one_who_would_wait_too_long_is_that_of_the_error() -> None:
    assert overloaded("mine") == reply_to(Overloaded(), "mine")


def test_clients_are_not_all_told_to_come_back_at_the_same_time() -> None:
    assert {retry_after() for _ in range(3)} == {"1", "2", "3"}

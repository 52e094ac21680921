from weighbridge.adapters.http.problems import Canned, Problem


def test_a_canned_problem_is_the_same_as_one_that_is_made() -> None:
    canned = Canned(Problem.OVERLOADED, "expected less")

    assert [canned.reply(name) for name in ("a", "b-1")] == [
        Problem.OVERLOADED.reply("expected less", name) for name in ("a", "b-1")
    ]

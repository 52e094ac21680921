from collections.abc import Iterator

import pytest

from weighbridge.adapters.http.errors import PROBLEM_OF, as_response
from weighbridge.adapters.http.problems import Problem
from weighbridge.application.readiness import NotReady
from weighbridge.domain.errors import (
    InvalidSignature,
    InvalidWeights,
    ModelRefused,
    NothingToRollBack,
    WeighbridgeError,
)

AT_START_ONLY = {InvalidWeights}
FOR_OPERATORS_ONLY = {InvalidSignature, ModelRefused, NothingToRollBack}


def leaves(error: type[WeighbridgeError] = WeighbridgeError) -> Iterator[type[WeighbridgeError]]:
    """The errors that are raised: those without a kind of their own."""
    kinds = error.__subclasses__()
    if not kinds:
        yield error
    for kind in kinds:
        yield from leaves(kind)


def test_every_error_that_a_request_may_meet_is_a_problem() -> None:
    assert NotReady in PROBLEM_OF
    assert set(leaves()) - AT_START_ONLY - FOR_OPERATORS_ONLY == set(PROBLEM_OF)


def test_a_client_that_is_refused_for_a_while_is_told_when_to_come_back() -> None:
    refused = as_response(Problem.OVERLOADED.reply("too much", "mine"), {"x-needle": "kept"})

    assert refused.headers["retry-after"] in {"1", "2", "3"}
    assert refused.headers["x-needle"] == "kept"
    assert "retry-after" not in as_response(Problem.INTERNAL_ERROR.reply("a fault", "mine")).headers


@pytest.mark.parametrize("problem", Problem)
def test_a_problem_has_a_status_of_an_error_and_a_title(problem: Problem) -> None:
    assert 400 <= problem.status < 600
    assert problem.title
    assert problem.code == problem.name.lower()

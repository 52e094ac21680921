import pytest

from weighbridge.entrypoints.serve import welcome
from weighbridge.settings import Settings


@pytest.mark.parametrize(
    ("weights", "attempt"),
    [
        ((0.5, 2.0), "curl U/predict -H 'Content-Type: application/json' -d '{\"features\": [1.0, 1.0]}'"),
        ("off", "curl U/models"),
    ],
)
def test_the_request_to_try_is_one_that_is_answered(weights: tuple[float, ...], attempt: str) -> None:
    text = welcome("U", Settings(weights=weights))

    assert text.splitlines()[-1] == f"  Try:  {attempt}"

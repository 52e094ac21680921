import pytest

from weighbridge.domain.errors import (
    FeatureCountMismatch,
    InvalidWeights,
    ModelCrashed,
    NothingToRollBack,
    PredictionNotFinite,
    TooManyRows,
    WeighbridgeError,
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FeatureCountMismatch(expected=4, got=3), "expected 4 features, got 3"),
        (FeatureCountMismatch(expected=4, got=3, row=0), "expected 4 features in row 0, got 3"),
        (TooManyRows(limit=2, got=3), "expected at most 2 rows, got 3; send them in several requests"),
        (
            PredictionNotFinite(),
            "expected a finite prediction, got an overflow; send features of smaller magnitude",
        ),
        (
            PredictionNotFinite(row=7),
            "expected a finite prediction for row 7, got an overflow; send features of smaller magnitude",
        ),
        (
            ModelCrashed(),
            "The model's process ended during the call; it is replaced, so the request may be sent again",
        ),
        (
            NothingToRollBack(),
            "expected a version that was live before this one, got none; activate one by its number",
        ),
        (InvalidWeights("expected one or more weights, got none"), "expected one or more weights, got none"),
    ],
)
def test_an_error_says_what_was_expected_and_what_came(error: WeighbridgeError, message: str) -> None:
    assert str(error) == message

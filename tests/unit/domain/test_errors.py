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
            "The prediction is infinite or not a number; send features of smaller magnitude",
        ),
        (
            PredictionNotFinite(row=7),
            "The prediction for row 7 is infinite or not a number; send features of smaller magnitude",
        ),
        (
            ModelCrashed(),
            "The model's process ended during the call and is being replaced; the request may be sent again",
        ),
        (
            NothingToRollBack(),
            "No other version was live before; activate a version by its number",
        ),
        (InvalidWeights("expected one or more weights, got none"), "expected one or more weights, got none"),
    ],
)
def test_an_error_says_what_was_expected_and_what_came(error: WeighbridgeError, message: str) -> None:
    assert str(error) == message

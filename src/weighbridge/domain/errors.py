"""Everything that can be wrong with a prediction, stated as facts; the edges choose the codes.

WeighbridgeError
├── InvalidWeights        no weights, or one that is not a finite number
├── FeatureCountMismatch  a row is not as wide as the model
├── FeaturesNotFinite     a row holds what is not a finite number
├── TooManyRows           a batch holds more rows than one call may score
└── PredictionNotFinite   the arithmetic overflowed

No message repeats a value that came from a client: counts and positions only.
"""


class WeighbridgeError(Exception):
    """The root of every error that Weighbridge states itself."""


class InvalidWeights(WeighbridgeError):
    """The weights of a linear model are empty or not finite."""


class FeatureCountMismatch(WeighbridgeError):
    """A row has another number of features than the model.

    `row` is the index of the first such row in a batch, None for a single prediction.
    """

    def __init__(self, *, expected: int, got: int, row: int | None = None) -> None:
        where = "" if row is None else f" in row {row}"
        super().__init__(f"expected {expected} features{where}, got {got}")
        self.row = row


class FeaturesNotFinite(WeighbridgeError):
    """A row, the first such being at index `row`, holds an infinity or what is not a number."""

    def __init__(self, *, row: int) -> None:
        super().__init__(f"expected finite features in row {row}, got one that is not")
        self.row = row


class TooManyRows(WeighbridgeError):
    """A batch holds more rows than one call may score."""

    def __init__(self, *, limit: int, got: int) -> None:
        super().__init__(f"expected at most {limit} rows, got {got}; send them in several requests")


class PredictionNotFinite(WeighbridgeError):
    """A prediction overflowed to infinity or to no number at all.

    `row` is the index of the first such row in a batch, None for a single prediction.
    """

    def __init__(self, *, row: int | None = None) -> None:
        where = "" if row is None else f" for row {row}"
        super().__init__(f"expected a finite prediction{where}, got an overflow; send features of smaller magnitude")
        self.row = row

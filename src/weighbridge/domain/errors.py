"""Everything that can be wrong with a prediction, stated as facts; the edges choose the codes.

WeighbridgeError
├── InvalidWeights        no weights, or one that is not a finite number
├── FeatureCountMismatch  a row is not as wide as the model
├── FeaturesNotFinite     a row holds what is not a finite number
├── FeatureTooLarge       a model failed on a number beyond single precision
├── TooManyRows           a batch holds more rows than one call may score
├── PredictionNotFinite   the arithmetic overflowed
├── InvalidSignature      columns that cannot be a model's inputs or outputs
├── ModelNotFound         there is no model of this name
├── VersionNotFound       the model has no such version
├── VersionNotLive        the version is there, but another one is live
├── NothingToRollBack     no version was live before
├── ModelRefused          an artefact, or its manifest, is not what it should be
├── InferenceFailed       the model raised, or gave what its signature does not say
├── ModelCrashed          the process that called the model has ended in the call
└── ModelUnavailable      the model is out of service, since its process ended again and again

No message repeats a value that came from a client: counts and positions only.
"""

_MOST_CHARACTERS = 500


class WeighbridgeError(Exception):
    """The root of every error that Weighbridge states itself."""


class InvalidWeights(WeighbridgeError):
    """The weights of a linear model are empty or not finite."""


class FeatureCountMismatch(WeighbridgeError):
    """A row has another number of features than the model.

    `row` is the index of the first such row in a batch, None for a single prediction; `column` is the vector.
    """

    def __init__(self, *, expected: int, got: int, row: int | None = None, column: str = "features") -> None:
        where = "" if row is None else f" in row {row}"
        super().__init__(f"expected {expected} features{where}, got {got}")
        self.row = row
        self.column = column


class FeaturesNotFinite(WeighbridgeError):
    """A row, the first such being at index `row`, holds an infinity or what is not a number."""

    def __init__(self, *, row: int) -> None:
        super().__init__(f"Row {row} holds an infinity or NaN; send finite numbers")
        self.row = row


class FeatureTooLarge(WeighbridgeError):
    """A number is beyond what a model computes in: single precision, of one that failed, or integers of 32 bits.

    `most` is the greatest that there is; `row` is the index of the first such row in a batch, None for a single
    prediction; `column` is the input.
    """

    def __init__(self, *, most: str, column: str, row: int | None = None) -> None:
        where = "" if row is None else f" in row {row}"
        super().__init__(f"The value of {column}{where} is too large; the model takes magnitudes of at most {most}")
        self.most = most
        self.row = row
        self.column = column


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
        super().__init__(f"The prediction{where} is infinite or not a number; send features of smaller magnitude")
        self.row = row


class InvalidSignature(WeighbridgeError):
    """Columns cannot be a model's inputs or outputs."""


class ModelNotFound(WeighbridgeError):
    """There is no model of the name that was asked for."""

    def __init__(self) -> None:
        super().__init__("No such model; GET /models lists them")


class VersionNotFound(WeighbridgeError):
    """The model has no version of the name that was asked for."""

    def __init__(self) -> None:
        super().__init__("The model has no such version; GET /models lists them")


class VersionNotLive(WeighbridgeError):
    """The model has the version, but it is not loaded: another one is live."""

    def __init__(self, *, live: str) -> None:
        super().__init__(
            f"Version {live} is live; leave the version out of the path, or have the other version activated"
        )


class NothingToRollBack(WeighbridgeError):
    """No other version of the model was live before the one that is."""

    def __init__(self) -> None:
        super().__init__("No other version was live before; activate a version by its number")


class ModelRefused(WeighbridgeError):
    """A version of a model cannot be served; the message names the file and the reason.

    It speaks to operators: no client of the data plane sees it. Whatever a file or a library says in it, the message is
    one line of bounded length.
    """

    def __init__(self, message: str) -> None:
        line = " ".join("".join(char if char.isprintable() else " " for char in message).split())
        super().__init__(line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}...")


class InferenceFailed(WeighbridgeError):
    """The model raised, or gave what its signature does not say; the cause is for the log, not for the client."""

    def __init__(self) -> None:
        super().__init__("The model failed on rows that fit its signature; the service's log has the cause")


class ModelCrashed(WeighbridgeError):
    """The process that called the model has ended before it gave the outputs."""

    def __init__(self) -> None:
        super().__init__(
            "The model's process ended during the call and is being replaced; the request may be sent again"
        )


class ModelUnavailable(WeighbridgeError):
    """The model is out of service; the message is the reason, for its process ended again and again."""

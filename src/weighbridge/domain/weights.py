"""The weights of a linear model."""

from dataclasses import dataclass
from math import isfinite

from weighbridge.domain.errors import InvalidWeights


@dataclass(frozen=True, slots=True)
class Weights:
    """One finite weight per feature, in the order of the features; there is at least one.

    Raises InvalidWeights.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise InvalidWeights("expected one or more weights, got none")
        for position, value in enumerate(self.values):
            if not isfinite(value):
                raise InvalidWeights(f"the weight at position {position} is not a finite number")

    def __len__(self) -> int:
        return len(self.values)

"""Vectors of weights."""

from collections.abc import Sequence

from tests.unit.adapters.runtimes.case import Case

_WEIGHTS = [0.25, -0.5, 1.25, 0.1]
_ROWS = [[0.1 * place, -1e10 / (place + 1), 3.0, 7e-9 * place] for place in range(20)]


def cases() -> Sequence[Case]:
    """One vector; its library is Python's own arithmetic, from left to right."""
    return [Case("linear", lambda: (_WEIGHTS, _ROWS[:3]), lambda: _ROWS, lambda: {"prediction": [*map(_dot, _ROWS)]})]


def _dot(row: Sequence[float]) -> float:
    total = 0.0
    for number, weight in zip(row, _WEIGHTS, strict=True):
        total += number * weight
    return total

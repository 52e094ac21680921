import mmap
import os

import pytest

from weighbridge.adapters.runners.terms import Board, Placed, Terms
from weighbridge.adapters.system.lending import borrowed, lent


@pytest.mark.parametrize(
    "placed",
    [
        Placed("1.2", 4000),
        Placed("3", terms=Terms(7, 2, 256, shares=True, call_seconds=0.01, row_seconds=1e-9), manifest="ü" * 10**6),
    ],
)
def test_where_a_version_is_called_reaches_another_process_as_it_was_lent(placed: Placed) -> None:
    with lent(placed) as memory:
        descriptor = os.dup(memory)

    assert borrowed(Placed, descriptor) == placed
    os.close(descriptor)


def test_each_worker_counts_in_its_own_slot_and_all_see_the_total() -> None:
    memory = mmap.mmap(-1, Board.size(2))
    one, other = Board(memory, 0), Board(memory, 1)

    one.add(2, 20)
    other.add(3, 1)
    one.add(-1, -5)

    assert (one.own, other.own) == ((1, 15), (3, 1))
    assert one.total() == other.total() == (4, 16)


def test_a_worker_without_a_slot_counts_for_itself() -> None:
    memory = mmap.mmap(-1, Board.size(2))
    outside, inside = Board(memory, 2), Board(memory, 1)

    outside.add(1, 1)
    inside.add(5, 5)

    assert (outside.own, outside.total()) == ((1, 1), (1, 1))
    assert inside.total() == (5, 5)


def test_a_worker_counts_before_there_is_a_runner() -> None:
    board = Board()

    board.add(1, 2)

    assert board.own == board.total() == (1, 2)

import errno
import fcntl
import mmap
import os

import pytest

from tests.starving import open_files
from weighbridge.server.runner.vitals import SharedVitals
from weighbridge.server.scoreboard import Scoreboard


def test_what_a_runner_counts_others_see() -> None:
    ours = SharedVitals.create()
    theirs = SharedVitals(os.dup(ours.descriptor))

    theirs.vitals.calls += 2
    theirs.vitals.began = 0.5

    assert (ours.vitals.calls, ours.vitals.rows, ours.vitals.busy, ours.vitals.began) == (2, 0, 0.0, 0.5)
    os.close(ours.descriptor)
    os.close(theirs.descriptor)


@pytest.mark.parametrize("size", [0, 2**20])
def test_nobody_can_change_the_size_of_what_is_mapped(size: int) -> None:
    shared = SharedVitals.create()

    with pytest.raises(PermissionError):
        os.ftruncate(shared.descriptor, size)
    os.close(shared.descriptor)


def test_nothing_is_left_of_what_could_not_be_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    before = open_files()
    monkeypatch.setattr(fcntl, "fcntl", forbidden)

    with pytest.raises(PermissionError):
        SharedVitals.create()
    assert open_files() == before


def test_nothing_is_left_of_what_could_not_be_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    before = open_files()
    monkeypatch.setattr(mmap, "mmap", full)
    for shared in (SharedVitals, Scoreboard):
        with pytest.raises(OSError, match="Cannot allocate memory"):
            shared.create()

    assert open_files() == before

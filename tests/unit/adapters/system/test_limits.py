import resource
import sys
from collections.abc import Iterator

import pytest

from weighbridge.adapters.system.limits import open_files, reserve_files


@pytest.fixture
def soft() -> Iterator[int]:
    """A limit on open files that can be raised; it is as it was afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, before[1]))
    yield 500
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_on_open_files_is_raised(soft: int) -> None:
    assert open_files(soft + 1) == soft + 1


def test_the_limit_on_open_files_is_never_lowered(soft: int) -> None:
    assert open_files(soft - 1) == soft


def test_a_limit_that_the_system_does_not_let_be_raised_stays(soft: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refused)
    assert open_files(soft + 1) == soft
    monkeypatch.undo()


def test_where_there_are_no_limits_as_many_files_may_be_open_as_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setitem(sys.modules, "fcntl", None)

    reserve_files(10)

    assert open_files(10) == 10

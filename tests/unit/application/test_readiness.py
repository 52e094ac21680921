import pytest

from weighbridge.application.readiness import NotReady, Readiness


def test_nothing_is_ready_before_it_has_started() -> None:
    with pytest.raises(NotReady, match=r"^starting$"):
        Readiness().check()


def test_what_has_started_is_ready() -> None:
    readiness = Readiness()

    readiness.started()

    readiness.check()


def test_what_drains_is_not_ready() -> None:
    readiness = Readiness()
    readiness.started()

    readiness.draining()

    with pytest.raises(NotReady, match=r"^draining$"):
        readiness.check()

import asyncio
import os
import socket

import pytest
from typing_extensions import override

from tests.starving import open_files
from weighbridge.adapters.runners.terms import Placed
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.edge.opening import NoModels, Opening

PLACED = Placed("1")


class Raising(NoModels):
    @override
    def open(self, _name: str, _placed: Placed) -> None:
        raise MemoryError("no more")


def test_whatever_a_library_raises_is_a_reason_to_refuse_a_version() -> None:
    with pytest.raises(ModelRefused, match=r"^models/m/1: opening failed: MemoryError: no more$"):
        asyncio.run(Opening(Raising()).prepare("m", PLACED))


def test_an_application_that_serves_no_models_opens_none() -> None:
    with pytest.raises(ModelRefused, match=r"^the application serves no models$"):
        asyncio.run(Opening(NoModels()).prepare("m", PLACED))


def test_an_application_that_serves_no_models_hangs_up_on_runners() -> None:
    models, board = NoModels(), os.memfd_create("board")
    near, far = socket.socketpair()
    with far:
        models.connect(1, near, 0, board, 0)
        assert far.recv(1) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(board)


def test_an_application_that_serves_no_models_heeds_nothing_else() -> None:
    models, before = NoModels(), open_files()
    models.install(None)
    models.drop(None)
    models.put_out(1, "its process was killed")
    models.supervise(lambda *_: None)
    models.tell({})

    assert open_files() == before


class Dropping(NoModels):
    """Opens whatever it is asked for, and notes what it drops."""

    def __init__(self) -> None:
        self.dropped: list[str] = []

    @override
    def open(self, name: str, placed: Placed) -> str:
        return f"{name} {placed.version}"

    @override
    def drop(self, opened: str) -> None:
        self.dropped.append(opened)


def test_what_was_opened_before_is_dropped_when_another_version_is_opened_or_none_is_wanted() -> None:
    models = Dropping()
    beside = Opening(models)

    for version in ("1", "2"):
        asyncio.run(beside.prepare("m", Placed(version)))
    assert models.dropped == ["m 1"]
    beside.drop()
    beside.drop()

    assert models.dropped == ["m 1", "m 2"]


class Noting(NoModels):
    """Notes under which policy it opens."""

    @override
    def open(self, _name: str, _placed: Placed) -> int:
        return os.sched_getscheduler(0)  # of the calling thread

    @override
    def install(self, opened: int) -> None:
        self.policy = opened


def test_what_answers_requests_goes_before_what_opens_a_version() -> None:
    models = Noting()
    beside = Opening(models)

    asyncio.run(beside.prepare("m", PLACED))
    beside.install()

    assert models.policy == os.SCHED_BATCH

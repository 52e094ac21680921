import asyncio
import errno
import os
import sys
from contextlib import suppress

import pytest
from typing_extensions import override

from tests.starving import uncollected
from tests.waiting import until
from weighbridge.adapters.artefact import Artefact
from weighbridge.application.catalogue import Catalogue
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.opening import NoModels, Opening


class Raising(NoModels):
    @override
    def open(self, _name: str, _version: str, _read: Artefact | None) -> None:
        raise MemoryError("no more")


def test_whatever_a_library_raises_is_a_reason_to_refuse_a_version() -> None:
    with pytest.raises(ModelRefused, match=r"^models/m/1: expected it to open, got MemoryError: no more$"):
        asyncio.run(Opening(Raising()).prepare("m", "1", None))


def test_what_was_read_is_given_back_with_a_version_that_is_refused() -> None:
    artefact = Artefact.of(b"good")
    path = artefact.path

    async def refused(read: Artefact) -> None:
        with suppress(ModelRefused):
            await Opening(Raising()).prepare("m", "1", read)

    with uncollected():
        asyncio.run(refused(artefact))
        del artefact
        until(lambda: not os.path.lexists(path))


def test_an_application_that_serves_no_models_opens_none() -> None:
    models, nothing = NoModels(), Catalogue
    with pytest.raises(ModelRefused, match=r"^expected an application that serves models, got another one$"):
        asyncio.run(Opening(models).prepare("m", "1", None))
    models.install(nothing)
    models.tell({})


class Noting(NoModels):
    """Notes under which policy, and on which cores, it opens."""

    @override
    def open(self, _name: str, _version: str, _read: Artefact | None) -> tuple[int, set[int]]:
        return os.sched_getscheduler(0), os.sched_getaffinity(0)  # of the calling thread

    @override
    def install(self, opened: tuple[int, set[int]]) -> None:
        self.policy, self.cores = opened


def test_what_answers_requests_goes_before_what_opens_a_version() -> None:
    models = Noting()
    beside = Opening(models)

    asyncio.run(beside.prepare("m", "1", None))
    beside.install()

    assert models.policy == os.SCHED_BATCH


def test_a_version_is_opened_on_any_core_while_what_answers_keeps_to_one() -> None:
    models = Noting()
    beside, cores = Opening(models), os.sched_getaffinity(0)

    os.sched_setaffinity(0, {min(cores)})
    try:
        asyncio.run(beside.prepare("m", "1", None))
    finally:
        os.sched_setaffinity(0, cores)
    beside.install()

    assert models.cores == cores


def test_a_version_is_opened_where_a_sandbox_lets_nobody_choose_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    models = Noting()
    beside = Opening(models)
    monkeypatch.setattr(os, "sched_setaffinity", forbidden)

    asyncio.run(beside.prepare("m", "1", None))
    beside.install()

    assert models.policy == os.SCHED_BATCH


def test_python_code_that_opens_a_version_soon_lets_go_of_the_interpreter() -> None:
    sys.setswitchinterval(0.005)  # Python's own

    Opening(NoModels())

    assert sys.getswitchinterval() < 0.005

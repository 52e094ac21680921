"""What was read once stays as it was, and where it is needed."""

import _thread
import hashlib
import mmap
import os
from pathlib import Path

import pytest

from tests.waiting import DEADLINE, until
from weighbridge.adapters.artefact import Artefact


def test_an_artefact_is_the_content_that_a_file_had_when_it_was_read(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"good")
    with file.open("rb", buffering=0) as opened:
        artefact = Artefact.copy(opened, 100, DEADLINE)

    file.write_bytes(b"changed")

    assert artefact.read() == b"good"
    assert artefact.sha256() == hashlib.sha256(b"good").hexdigest()


def test_a_library_can_open_it_as_a_file() -> None:
    artefact = Artefact.of(b"good")

    assert artefact.path.read_bytes() == b"good"


def test_no_more_of_a_file_is_copied_than_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"good, and more")
    with file.open("rb", buffering=0) as opened:
        assert Artefact.copy(opened, 4, DEADLINE).read() == b"good"


def test_a_file_is_copied_and_digested_part_by_part(tmp_path: Path) -> None:
    content = os.urandom(1000) * 20_000  # more than a part, and no whole number of them
    file = tmp_path / "model.bin"
    file.write_bytes(content)
    with file.open("rb", buffering=0) as opened:
        artefact = Artefact.copy(opened, len(content), DEADLINE)

    assert artefact.read() == content
    assert artefact.sha256() == hashlib.sha256(content).hexdigest()


def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"good")
    with file.open("rb", buffering=0) as opened, pytest.raises(TimeoutError):
        Artefact.copy(opened, 4, 0)


def test_whoever_is_given_it_can_read_it_and_not_change_it() -> None:
    artefact = Artefact.of(b"good")
    given = os.dup(artefact.descriptor)

    for change in (
        lambda: os.pwrite(given, b"evil", 0),
        lambda: os.ftruncate(given, 0),
        lambda: mmap.mmap(given, 4, prot=mmap.PROT_WRITE),
        lambda: artefact.path.write_bytes(b"evil"),
    ):
        with pytest.raises(PermissionError):
            change()

    assert os.pread(given, 10, 0) == b"good"
    os.close(given)


def test_its_digest_is_of_all_of_it() -> None:
    content = bytes(9 * 1024**2)  # more than is digested at once

    assert Artefact.of(content).sha256() == hashlib.sha256(content).hexdigest()


def test_an_empty_one_is_empty() -> None:
    assert Artefact.of(b"").read() == b""


@pytest.mark.parametrize("size", [0, 16 * 1024**2])
def test_it_goes_with_the_last_reference_to_it(size: int) -> None:
    artefact = Artefact.of(bytes(size))
    path = artefact.path
    del artefact

    until(lambda: not os.path.lexists(path))  # a thread sees to it when it is large


def test_it_goes_where_there_is_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    artefact = Artefact.of(bytes(16 * 1024**2))
    path = artefact.path
    monkeypatch.setattr(_thread, "start_new_thread", no_thread)
    del artefact

    assert not os.path.lexists(path)


def test_what_cannot_be_read_is_told() -> None:
    with Path("/proc/self/mem").open("rb", buffering=0) as file, pytest.raises(OSError, match="Input/output error"):
        Artefact.copy(file, 1, DEADLINE)

"""Files that others are lent or that nobody can write to, in memory and where the system has no such memory."""

import errno
import fcntl
import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.starving import open_files
from tests.unit.adapters.system.failing import failing
from weighbridge.adapters.system import memory
from weighbridge.adapters.system.memory import ReadOnlyFile, sealable, shared, unnamed

Patch = pytest.MonkeyPatch


ABSENCES: dict[str, Callable[[Patch], None]] = {
    "no name": lambda patch: patch.delattr(os, "memfd_create"),
    "no seals": lambda patch: patch.delattr(fcntl, "F_ADD_SEALS"),
    "no module": lambda patch: patch.setitem(sys.modules, "fcntl", None),
    "ENOSYS": lambda patch: patch.setattr(os, "memfd_create", failing(errno.ENOSYS)),
    "EPERM": lambda patch: patch.setattr(os, "memfd_create", failing(errno.EPERM)),
}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: Patch) -> Iterator[Path]:
    """The directory of temporary files, of a system that has no memory to be sealed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delattr(os, "memfd_create")
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("absence", ABSENCES)
def test_there_is_no_memory_to_be_sealed_where_the_system_has_none(absence: str, monkeypatch: Patch) -> None:
    ABSENCES[absence](monkeypatch)

    assert sealable("test") is None


def test_memory_that_is_only_short_is_an_error(monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "memfd_create", failing(errno.EMFILE))

    with pytest.raises(OSError, match="Too many open files"):
        unnamed("test")


@pytest.mark.usefixtures("temporary")
def test_an_unnamed_file_may_be_on_a_disk() -> None:
    descriptor = unnamed("test")

    os.write(descriptor, b"good")

    assert os.pread(descriptor, 10, 0) == b"good"
    os.close(descriptor)


@pytest.mark.usefixtures("temporary")
def test_a_file_on_a_disk_may_be_mapped_by_several() -> None:
    descriptor = shared("test", 8)
    with closing(mmap.mmap(descriptor, 8)) as ours, closing(mmap.mmap(descriptor, 8)) as theirs:
        os.close(descriptor)
        theirs[0] = 1

        assert ours[:] == b"\1" + bytes(7)


def test_nothing_is_left_of_what_could_not_be_made_so_large(monkeypatch: Patch) -> None:
    before = open_files()
    monkeypatch.setattr(os, "ftruncate", failing(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        shared("test", 8)
    assert open_files() == before


def written(content: bytes) -> ReadOnlyFile:
    """A file with this content, which is sealed."""
    file = ReadOnlyFile()
    os.write(file.descriptor, content)
    file.seal()
    return file


@pytest.mark.parametrize("fixtures", [[], ["temporary"]], ids=["memory", "disk"])
def test_nobody_can_write_to_a_sealed_file_or_make_it_smaller(
    fixtures: list[str], request: pytest.FixtureRequest
) -> None:
    for fixture in fixtures:
        request.getfixturevalue(fixture)
    file = written(b"good")

    for change in (lambda: os.pwrite(file.descriptor, b"evil", 0), lambda: os.ftruncate(file.descriptor, 0)):
        with pytest.raises(OSError, match=r"not permitted|Bad file descriptor|Invalid argument"):
            change()
    assert file.path.read_bytes() == b"good"
    file.close()


def test_a_temporary_file_is_this_users_and_removed_when_it_is_closed(temporary: Path) -> None:
    file = written(b"good")
    [entry] = temporary.iterdir()

    assert (entry, entry.stat().st_mode & 0o777) == (file.path, 0o600)
    file.close()


def test_a_temporary_file_that_is_gone_already_is_closed_all_the_same(temporary: Path) -> None:
    file = written(b"good")
    [entry] = temporary.iterdir()
    entry.unlink()

    file.close()


def test_a_file_has_a_path_where_descriptors_have_none(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(memory, "_DESCRIPTORS", tmp_path / "not mounted")
    file = written(b"good")

    assert file.path.parent == tmp_path
    assert file.path.read_bytes() == b"good"
    file.close()

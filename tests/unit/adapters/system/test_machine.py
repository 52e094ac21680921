import os
import sys
from pathlib import Path

import pytest

from weighbridge.adapters.system import machine
from weighbridge.adapters.system.machine import memory_limit, usable_cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of control groups; this process is in a/b, of which nothing is said yet."""
    (tmp_path / "groups/a/b").mkdir(parents=True)
    (tmp_path / "own").write_text("12:cpu:/elsewhere\n0::/a/b\n")
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(8)})
    return tmp_path / "groups"


@pytest.mark.parametrize(
    ("group", "above", "cores"),
    [
        ("max 100000", "max 100000", 8),
        ("250000 100000", "max 100000", 2),
        ("250000 100000", "150000 100000", 1),
        ("50000 100000", "max 100000", 1),
        ("6400000 100000", "max 100000", 8),
    ],
)
def test_cores_are_those_that_affinity_and_all_quotas_leave(groups: Path, group: str, above: str, cores: int) -> None:
    (groups / "a/b/cpu.max").write_text(f"{group}\n")
    (groups / "a/cpu.max").write_text(f"{above}\n")

    assert usable_cores() == cores


def test_memory_is_what_the_tightest_group_leaves(groups: Path) -> None:
    (groups / "a/b/memory.max").write_text("max\n")
    (groups / "a/memory.max").write_text("5000\n")
    (groups / "memory.max").write_text("9000\n")

    assert memory_limit() == 5000


def test_without_control_groups_there_are_no_limits(groups: Path) -> None:
    assert (usable_cores(), memory_limit()) == (8, sys.maxsize)
    (groups.parent / "own").unlink()

    assert (usable_cores(), memory_limit()) == (8, sys.maxsize)


@pytest.mark.parametrize(("known", "cores"), [(3, 3), (None, 1)])
def test_without_an_affinity_all_cores_of_the_machine_may_be_used(
    groups: Path, monkeypatch: pytest.MonkeyPatch, known: int | None, cores: int
) -> None:
    (groups.parent / "own").unlink()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: known)

    assert usable_cores() == cores

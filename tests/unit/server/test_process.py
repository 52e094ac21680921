"""What a worker is started with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weighbridge.server import process
from weighbridge.server.process import with_huge_pages

HELD = """
held = bytearray(b"x") * 2**26
[line] = [line for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")]
print(int(line.split()[1]) > 0)
"""


def has_huge_pages(tunables: dict[str, str]) -> bool:
    """Whether a process that holds 64 MiB, started with these tunables of the C library, has huge pages."""
    others = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", HELD]
    done = subprocess.run(
        command, env=with_huge_pages(others | tunables), stdout=subprocess.PIPE, text=True, check=True, timeout=20
    )
    return done.stdout == "True\n"


def test_memory_is_on_huge_pages_where_the_kernel_gives_them_unless_the_operator_says_otherwise() -> None:
    modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text("ascii")
    mode = modes.partition("[")[2].partition("]")[0]

    given = has_huge_pages({}), has_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"})

    assert given == {"always": (True, True), "madvise": (True, False), "never": (False, False)}[mode]


def test_other_tunables_of_the_operator_stay() -> None:
    given = with_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.check=3", "HOME": "/"})

    assert given == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.check=3", "HOME": "/"}


@pytest.mark.parametrize(
    ("size", "expected"), [("2097152\n", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}), ("536870912\n", {}), (None, {})]
)
def test_huge_pages_are_asked_for_where_they_have_the_usual_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: str | None, expected: dict[str, str]
) -> None:
    file = tmp_path / "hpage_pmd_size"
    if size is not None:
        file.write_text(size)
    monkeypatch.setattr(process, "_HUGE_PAGE_BYTES", file)

    assert with_huge_pages({}) == expected

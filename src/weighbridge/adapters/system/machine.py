"""What of the machine this process may use: cores and memory, less what its control group takes away."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")  # of control groups, version 2
_OWN_GROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """How many cores this process may keep busy: those of its affinity, and as many as its group's quota allows."""
    cores = _cores()
    for text in _limits("cpu.max"):
        quota, _, period = text.partition(" ")
        with suppress(ValueError):  # "max" is no limit
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def memory_limit() -> int:
    """The most memory, in bytes, that this process and all others of its group may have together."""
    limit = sys.maxsize
    for text in _limits("memory.max"):
        with suppress(ValueError):
            limit = min(limit, int(text))
    return limit


def _cores() -> int:
    """Those of this process's affinity; all of the machine where there is no such."""
    with suppress(AttributeError, OSError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limits(name: str) -> Iterator[str]:
    """What the group of this process, and each above it, say of one limit."""
    with suppress(OSError):
        for line in _OWN_GROUP.read_text("ascii").splitlines():
            if line.startswith("0::"):
                group = _GROUPS / line.removeprefix("0::").lstrip("/")
                for place in (group, *group.parents):
                    if place.is_relative_to(_GROUPS):
                        with suppress(OSError):
                            yield (place / name).read_text("ascii").strip()

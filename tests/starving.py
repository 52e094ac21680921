"""Processes that may open hardly anything more, and what this one has open."""

import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path


def open_files() -> list[str]:
    """The descriptors of this process that are in use."""
    gc.collect()  # what earlier tests have left to it would go at any time
    return sorted(link.name for link in Path("/proc/self/fd").iterdir())


@contextmanager
def room_for(descriptors: int, pid: int = 0) -> Iterator[None]:
    """The process, by default this one, has room for so many descriptors more, and no others."""
    folder = Path("/proc", str(pid or "self"), "fd")
    links = list(folder.iterdir())
    used = {int(link.name) for link in links if link.is_symlink()}  # that of the listing is not there any more
    free = (number for number in count() if number not in used)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(islice(free, descriptors, None)), before[1]))
    try:
        yield
    finally:
        if folder.exists():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

"""How much a process may have: raised for what serves, lowered for what opens artefacts."""

import os
from contextlib import suppress
from pathlib import Path

from weighbridge.adapters.system import libc

_PR_SET_NO_NEW_PRIVS = 38  # of Linux' prctl.h
_UNLIMITED = 2**63 - 1  # what -1, for no limit at all, comes to
_SOONER_THAN_OTHERS = "500"  # from -1000 to 1000: the kernel takes runners before workers


def open_files(wanted: int) -> int:
    """How many files this process may have open: a limit that is raised to `wanted` as far as the system lets it."""
    try:
        import resource
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS has another limit below the one that it tells
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard & _UNLIMITED, wanted)), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def reserve_files(count: int) -> None:
    """Have the kernel's table of this process's descriptors hold so many, as far as the limit lets it.

    It grows by doubling, and where there are threads that waits until every core has seen it: some tens of
    milliseconds.
    """
    with suppress(ImportError, OSError):  # without it all goes on, only not as smoothly
        import fcntl

        os.close(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, min(count, open_files(count)) - 1))


def confine(memory_bytes: int, descriptors: int) -> None:
    """Keep within so many bytes of memory and so many descriptors, and gain no privileges by whatever is executed.

    Only where processes can be started.
    """
    import resource

    libc.call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for limited, wanted in (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, memory_bytes),  # files in memory are files, too
        (resource.RLIMIT_NOFILE, descriptors),
    ):
        _, hard = resource.getrlimit(limited)
        most = min(wanted, hard & _UNLIMITED)  # none of the service's own limits can be raised
        resource.setrlimit(limited, (most, most))
    with suppress(OSError):  # there is no such file, or it may not be written to
        Path("/proc/self/oom_score_adj").write_text(_SOONER_THAN_OTHERS, "ascii")

"""What a process gives up that opens artefacts: more memory and files than it needs, and new privileges."""

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # of Linux' prctl.h
_PR_SET_NO_NEW_PRIVS = 38
_UNLIMITED = 2**63 - 1  # what -1, for no limit at all, comes to
_LIBRARIES = ("lightgbm", "onnxruntime", "xgboost")
_SIGNS = ("bad_alloc", "allocate memory", "out of memory")
_SOONER_THAN_OTHERS = "500"  # from -1000 to 1000: the kernel takes runners before workers


def end_with(parent: int) -> None:
    """Have this process killed when its parent ends; exit where that has happened already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def confine(memory_bytes: int, descriptors: int) -> None:
    """Keep within so many bytes of memory and so many descriptors, and gain no privileges by whatever is executed."""
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
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


def is_of_memory(exc: BaseException) -> bool:
    """Whether there was not enough memory, as far as a library lets one know.

    Only a library's own errors are believed by their text: others may repeat what a client sent.
    """
    seen: set[int] = set()
    at: BaseException | None = exc
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, MemoryError):
            return True
        if type(at).__module__.partition(".")[0] in _LIBRARIES and any(sign in _text(at) for sign in _SIGNS):
            return True
        at = at.__cause__
    return False


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException:  # noqa: BLE001  # an error of a model's own that cannot be told
        return ""

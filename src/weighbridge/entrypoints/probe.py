"""The program of a probe: opens one version of a model in a process that may do little else, and says how that went.

`python -m weighbridge.entrypoints.probe` and the descriptor that the verdict goes to; on standard input is an object
with the snapshot of the settings, the names of model and version, the descriptor of its artefact and its digest, and
the number of the process that asks.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

from weighbridge.server.yielding import giving_way

_PR_SET_PDEATHSIG = 1  # of Linux' prctl.h
_PR_SET_NO_NEW_PRIVS = 38
_MOST_DESCRIPTORS = 256
_UNLIMITED = 2**63 - 1  # what -1, for no limit at all, comes to
_SIGNS = ("bad_alloc", "allocate memory", "out of memory")  # how libraries tell that there is none


def main() -> None:
    """Answer the request on standard input."""
    verdict = int(sys.argv[1])
    request = json.load(sys.stdin)
    for descriptor in (verdict, request["artefact"][0]):
        os.set_inheritable(descriptor, False)
    settings = json.loads(request["settings"])
    _confine(settings["load_memory_bytes"], request["parent"])
    with giving_way():
        answer = _open(**request)
    os.write(verdict, json.dumps(answer).encode() + b"\n")


def _confine(memory_bytes: int, parent: int) -> None:
    """Give up what opening a file does not need."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has died before it could be told of
        sys.exit(1)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for limited, wanted in (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, memory_bytes),  # files in memory are files, too
        (resource.RLIMIT_NOFILE, _MOST_DESCRIPTORS),
    ):
        _, hard = resource.getrlimit(limited)
        most = min(wanted, hard & _UNLIMITED)  # none of the service's own limits can be raised
        resource.setrlimit(limited, (most, most))


def _open(*, settings: str, name: str, version: str, artefact: tuple[int, str], **_: Any) -> dict[str, Any]:
    """The verdict: that the version can be served, or the reason why not, under the kind of it."""
    from weighbridge.adapters.artefact import Artefact
    from weighbridge.adapters.loading import Loader
    from weighbridge.adapters.repository import Repository
    from weighbridge.adapters.runtimes import Trust
    from weighbridge.domain.errors import ModelRefused
    from weighbridge.settings import Settings

    restored = Settings.restore(settings)
    try:
        loader = Loader(Repository(restored.models), Trust(restored.trusted_types, restored.python_models))
        loader.load(name, version, Artefact(*artefact))
    except ModelRefused as exc:
        return {"out_of_memory" if _is_of_memory(exc) else "refused": str(exc)}
    return {"opened": True}


def _is_of_memory(exc: BaseException | None) -> bool:
    """Whether there was not enough memory, as far as a library lets one know."""
    if exc is None:
        return False
    return isinstance(exc, MemoryError) or any(sign in str(exc) for sign in _SIGNS) or _is_of_memory(exc.__cause__)


if __name__ == "__main__":
    main()

"""Memory that other processes may share and libraries may open: of the kernel's own, or a temporary file instead."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

ABSENT = (errno.ENOSYS, errno.EPERM)
"""How a kernel, a C library or a sandbox says that it does not have a call."""

_DESCRIPTORS = Path("/proc/self/fd")  # under which an open file has a path, even one that no directory holds
_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows takes other files for text


def sealable(name: str) -> int | None:
    """The descriptor of empty memory that can be sealed; None where the system has none. Raises OSError."""
    try:
        import fcntl
    except ImportError:
        return None
    if not (hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")):
        return None
    try:
        return os.memfd_create(f"weighbridge-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as exc:
        if exc.errno in ABSENT:
            return None
        raise


def unnamed(name: str) -> int:
    """The descriptor of an empty file that no directory holds. Raises OSError."""
    descriptor = sealable(name)
    if descriptor is None:
        with tempfile.TemporaryFile(buffering=0) as file:
            descriptor = os.dup(file.fileno())
    return descriptor


def shared(name: str, size: int) -> int:
    """The descriptor of so many zeros, to be mapped by several processes. Raises OSError.

    Whoever maps it is killed when it becomes smaller: on Linux nobody can change its size.
    """
    descriptor = sealable(name)
    seal = descriptor is not None
    if descriptor is None:
        descriptor = unnamed(name)
    try:
        os.ftruncate(descriptor, size)
        if seal:
            _seal(descriptor, writing=False)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class ReadOnlyFile:
    """A file that is written once: when it is sealed, nobody can write to its descriptor. Raises OSError.

    On Linux it is memory. Elsewhere it is a temporary file of this user's, which is removed when it is closed.
    """

    def __init__(self) -> None:
        self._temporary: str | None = None
        descriptor = sealable("artefact") if _DESCRIPTORS.is_dir() else None
        if descriptor is None:
            descriptor, self._temporary = tempfile.mkstemp(prefix="weighbridge-")
        self.descriptor = descriptor

    @property
    def path(self) -> Path:
        """Under which libraries open it until it is closed."""
        return Path(self._temporary or _DESCRIPTORS / str(self.descriptor))

    def seal(self) -> None:
        """Have nobody write to it any more. Raises OSError."""
        if self._temporary is None:
            _seal(self.descriptor, writing=True)
        else:
            os.close(self.descriptor)
            self.descriptor = os.open(self._temporary, os.O_RDONLY | _BINARY)

    def close(self) -> None:
        """Give it back."""
        os.close(self.descriptor)
        if self._temporary is not None:
            with suppress(OSError):  # Windows removes no file that a library has left open
                self.path.unlink()


def _seal(descriptor: int, *, writing: bool) -> None:
    """Have the size stay as it is, and where `writing` is sealed as well, all that is in there."""
    import fcntl

    seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_WRITE if writing else seals)

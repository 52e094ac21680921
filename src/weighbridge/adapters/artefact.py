"""The content of an artefact: read from its file once, into another that nobody else can write to."""

import _thread
import hashlib
import os
import time
from io import FileIO
from pathlib import Path
from typing import Self

from weighbridge.adapters.system.memory import ReadOnlyFile

_LARGE_BYTES = 16 * 1024**2
_PART = 8 * 1024**2  # that is digested at once: after each, other threads have to be asked for the interpreter


class Artefact:
    """A read-only file, in memory on Linux, which goes with the last reference to it.

    Half a gigabyte as an object of Python's would stop the world for a tenth of a second when it goes. This is copied,
    digested and given back while other threads run, and libraries that read files need no copy of their own. The last
    reference may go on an event loop, so what is large is given back by a thread: it takes 30 ms.

    Nobody can write to it, whoever has its descriptor.
    """

    def __init__(self, file: ReadOnlyFile) -> None:
        self._file = file
        self._digest: str | None = None

    def __del__(self) -> None:
        if os.fstat(self.descriptor).st_size >= _LARGE_BYTES:
            try:
                _thread.start_new_thread(self._file.close, ())
                return
            except RuntimeError:  # there is none to be had
                pass
        self._file.close()

    @classmethod
    def of(cls, content: bytes) -> Self:
        """One with this content."""
        artefact = cls(ReadOnlyFile())
        _write(artefact.descriptor, memoryview(content))
        return artefact._sealed()

    @classmethod
    def copy(cls, file: FileIO, size: int, seconds: float) -> Self:
        """One with the first `size` bytes of a file, or as many as it has, digested on the way.

        Raises OSError, and TimeoutError when that takes longer than it may.
        """
        artefact, digest, part = cls(ReadOnlyFile()), hashlib.sha256(), memoryview(bytearray(min(_PART, size)))
        start = time.monotonic()
        while size and (count := file.readinto(part[:size])):
            _write(artefact.descriptor, part[:count])
            digest.update(part[:count])
            size -= count
            if time.monotonic() - start > seconds:
                raise TimeoutError
        artefact._digest = digest.hexdigest()
        return artefact._sealed()

    def _sealed(self) -> Self:
        self._file.seal()
        return self

    @property
    def descriptor(self) -> int:
        """Of the file."""
        return self._file.descriptor

    @property
    def path(self) -> Path:
        """Under which libraries open it, as long as this object is there."""
        return self._file.path

    def sha256(self) -> str:
        """The digest, in hexadecimal."""
        if self._digest is None:
            with self.path.open("rb", buffering=0) as file:
                self._digest = sha256(file)
        return self._digest

    def read(self) -> bytes:
        """All of it."""
        return self.path.read_bytes()


def sha256(file: FileIO) -> str:
    """The digest of what is in a file from here on, in hexadecimal. Raises OSError."""
    digest, part = hashlib.sha256(), memoryview(bytearray(_PART))
    while count := file.readinto(part):
        digest.update(part[:count])
    return digest.hexdigest()


def _write(descriptor: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(descriptor, rest) :]

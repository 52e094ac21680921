"""The content of an artefact: read from its file once, into memory that nobody else can write to."""

import hashlib
import os
from pathlib import Path
from typing import Self

_PART = 8 * 1024**2  # that is digested at once: after each, other threads have to be asked for the interpreter


class Artefact:
    """A file in memory, which goes with the last reference to it.

    Half a gigabyte as an object of Python's would stop the world for a tenth of a second when it goes. This is copied,
    digested and given back while other threads run, and libraries that read files need no copy of their own.
    """

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("weighbridge-artefact")

    def __del__(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def of(cls, *parts: bytes | memoryview) -> Self:
        """One with this content."""
        artefact = cls()
        for part in parts:
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(artefact._descriptor, rest) :]
        return artefact

    @classmethod
    def copy(cls, descriptor: int) -> Self:
        """One with the content of an open file. Raises OSError."""
        artefact = cls()
        start, size = 0, os.fstat(descriptor).st_size
        while copied := os.sendfile(artefact._descriptor, descriptor, start, size - start):
            start += copied
        return artefact

    @property
    def path(self) -> Path:
        """Under which libraries open it, as long as this object is there."""
        return Path(f"/proc/self/fd/{self._descriptor}")

    def sha256(self) -> str:
        """The digest, in hexadecimal."""
        digest, part = hashlib.sha256(), memoryview(bytearray(_PART))
        with self.path.open("rb", buffering=0) as file:
            while count := file.readinto(part):
                digest.update(part[:count])
        return digest.hexdigest()

    def read(self) -> bytes:
        """All of it."""
        return self.path.read_bytes()

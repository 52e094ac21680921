"""The directory of models: `<name>/<version>/model.toml` with the artefact beside it, and `<name>/rollout.toml`.

Whatever is in it may be hostile: every part of a path is opened inside the directory before it, and symbolic links are
not followed. Only the directory of models itself may be one. No numpy here: the supervisor looks into it, too.
"""

import errno
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import FileIO
from math import inf
from pathlib import Path
from typing import NamedTuple, Self

from weighbridge.adapters.artefact import Artefact, sha256
from weighbridge.adapters.manifest import MANIFEST, NAME, ROLLOUT, VERSION, Manifest, Options, Rollout, order, pinned
from weighbridge.adapters.seen import Look, Seen
from weighbridge.application.catalogue import EMBEDDED
from weighbridge.domain.errors import ModelRefused

_MOST_BYTES = {MANIFEST: 1024**2, ROLLOUT: 64 * 1024}
_MOST_PRINTED = 64
_MOST_DOTS = 64
# tomllib takes time with the square of a key's parts: a minute for 128 KiB. Either form of a part is bounded by itself.
_BARE_DOTS = re.compile(rb"(?<![\w-])[\w-]++(?:[ \t]*+\.[ \t]*+[\w-]++){%d}" % _MOST_DOTS)
_QUOTED_DOT = re.compile(rb"[\"'][ \t]*+\.")
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY  # neither a pipe nor a terminal is waited for
_PASSING = _FLAGS | getattr(os, "O_PATH", 0)  # on the way to another: a sandbox lets nobody list what is beside it
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFSOCK: "a socket",
}
_MISSING = {errno.ENOENT: "nothing", errno.ENOTDIR: "a file", errno.ELOOP: "a symbolic link", errno.ENXIO: "a socket"}


@dataclass(frozen=True, slots=True)
class FoundVersion:
    """A version as it lies there. `reason` is why it cannot be served, None if manifest and digest are in order.

    `sha256` is the digest of the artefact, if there is one; `fingerprint` changes whenever manifest or artefact do.
    """

    sha256: str | None = None
    reason: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model as it lies there, its versions in numeric order; `problem` is why nothing of it can be live.

    What is no version by its name, or has the number of another one, comes after those that are, in a printable form.
    """

    rollout: Rollout | None
    problem: str | None
    versions: Mapping[str, FoundVersion]

    @property
    def wanted(self) -> str | None:
        """The version that should be live, whatever is wrong with it: what the rollout says, else the highest."""
        if self.problem is not None:
            return None
        if self.rollout is not None and self.rollout.live is not None:
            return self.rollout.live
        proper, _ = _by_number(self.versions)
        return proper[-1] if proper else None

    def options(self, version: str) -> Options:
        """How a version is to be run: as the rollout says, else by the defaults."""
        return Options() if self.rollout is None else self.rollout.options(version)


class Repository:
    """The models in the directory `root`; without one there are none. For any thread.

    An artefact of more than `most_bytes` is not read, and to copy one may take so many seconds at most. Scans remember
    what they have read of each file until the file changes.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None, most_bytes: int = sys.maxsize, most_seconds: float = inf
    ) -> None:
        self._root = None if root is None else Path(root)
        self.most_bytes = most_bytes
        self._most_seconds = most_seconds
        self._seen: dict[str, Seen] = {}

    def scan(self, only: str | None = None) -> dict[str, FoundModel]:
        """All models that are there, or of these `only` one. Files are read again only when they have changed.

        Raises ModelRefused when the directory itself cannot be read.
        """
        if self._root is None:
            return {}
        with self._opened() as root:
            there = [name for name in _listed(root, "models") if NAME.fullmatch(name)]
            found = {name: self._model(root, name) for name in there if only in {None, name}}
        for name in {*self._seen}.difference(there):
            self._seen.pop(name, None)  # another thread may have done so
        return found

    def find(self, name: str) -> FoundModel:
        """One model. Raises ModelRefused when it is not there."""
        with self._opened(name), self._opened() as root:
            return self._model(root, name)

    def strangers(self) -> list[str]:
        """What is no model by its name and passed over for it, a sentence each. Raises ModelRefused."""
        if self._root is None:
            return []
        with self._opened() as root:
            return [
                f"models/{_printable(name)}: the name of a model has at most 128 letters, digits, dots, dashes and"
                " underscores"
                for name in _listed(root, "models")
                if not NAME.fullmatch(name)
            ]

    def manifest(self, name: str, version: str) -> Manifest:
        """The manifest of a version. Raises ModelRefused."""
        with self._opened(name, version) as directory:
            file = f"models/{name}/{version}/{MANIFEST}"
            with _open(directory, MANIFEST, file, stat.S_IFREG) as descriptor:
                return Manifest.read(_read_toml(descriptor, MANIFEST, file), file)

    def artefact(self, name: str, version: str, manifest: Manifest) -> Artefact:
        """The artefact of a version, which has the manifest's digest; empty when there is none. Raises ModelRefused."""
        if manifest.artefact is None:
            return Artefact.of(b"")
        path = f"models/{name}/{version}/{manifest.artefact}"
        artefact = self._read(name, version, manifest.artefact, path)
        _check_digest(artefact.sha256(), manifest.sha256, path)
        return artefact

    def _read(self, name: str, version: str, file: str, path: str) -> Artefact:
        with (
            self._opened(name, version) as directory,
            _open(directory, file, path, stat.S_IFREG) as descriptor,
            _told(path, "a file that can be read"),
        ):
            size = os.fstat(descriptor).st_size
            self._check_size(size, path)
            try:
                return Artefact.copy(FileIO(descriptor, closefd=False), size, self._most_seconds)
            except TimeoutError as exc:
                limit = f"{self._most_seconds:g} seconds (WEIGHBRIDGE_LOAD_TIMEOUT)"
                raise ModelRefused(f"{path}: reading took longer than {limit}") from exc

    def _check_size(self, size: int, path: str) -> None:
        """Raises ModelRefused."""
        if size > self.most_bytes:
            raise ModelRefused(
                f"{path}: expected at most {self.most_bytes} bytes (WEIGHBRIDGE_LOAD_MEMORY_BYTES), got {size}"
            )

    def write_rollout(self, name: str, *, live: str, previous: str | None) -> None:
        """Have `rollout.toml` name these versions, and keep all else in it. Readers get the old or the new file, whole.

        Raises OSError where nothing can be written, and ModelRefused when the model is not there or its file is wrong.
        """
        path = f"models/{name}/{ROLLOUT}"
        with self._opened(name) as directory:
            with _rollout_file(directory, path) as former:
                before = b"" if former is None else _read_toml(former, ROLLOUT, path)
            text = pinned(before, path, live=live, previous=previous)
            _check_toml(text, ROLLOUT, path)
            temporary = f".{ROLLOUT}.{secrets.token_hex(4)}"
            descriptor = os.open(temporary, _CREATE, 0o666, dir_fd=directory)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    with suppress(FileNotFoundError):  # the permissions stay as they were
                        status = os.stat(ROLLOUT, dir_fd=directory, follow_symlinks=False)
                        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
                    file.write(text)
                    file.flush()
                    os.fsync(descriptor)
                os.rename(temporary, ROLLOUT, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                os.unlink(temporary, dir_fd=directory)
                raise
            os.fsync(directory)  # the name, too, outlives a power cut

    @contextmanager
    def _opened(self, *names: str) -> Iterator[int]:
        """The directory of all models, of one, or of a version, by its names. Raises ModelRefused."""
        for name, pattern, what in zip(names, (NAME, VERSION), ("the name of a model", "a version"), strict=False):
            if not pattern.fullmatch(name):
                raise ModelRefused(f"models: expected {what}, got {_printable(name)}")
        if self._root is None:
            raise ModelRefused("models: WEIGHBRIDGE_MODELS is not set")
        with ExitStack() as stack:
            with _told("models", "a directory"):
                passing = os.O_DIRECTORY | (getattr(os, "O_PATH", 0) if names else 0)
                directory = os.open(self._root, os.O_RDONLY | passing)
            stack.callback(os.close, directory)
            path = "models"
            for place, name in enumerate(names, 1):
                path = f"{path}/{name}"
                flags = _FLAGS if place == len(names) else _PASSING
                directory = stack.enter_context(_open(directory, name, path, stat.S_IFDIR, flags))
            yield directory

    def _model(self, root: int, name: str) -> FoundModel:
        if name == EMBEDDED.name:
            return FoundModel(None, f"models/{name}: the name is taken by the embedded model; rename the directory", {})
        path = f"models/{name}"
        versions: dict[str, FoundVersion] = {}
        look = Look(self._seen.get(name, {}))
        try:
            with _open(root, name, path, stat.S_IFDIR) as directory:
                proper, others = _by_number(_listed(directory, path))
                for version in proper:
                    versions[version] = self._version(directory, f"{path}/{version}", version, look)
                for entry, reason in others.items():
                    versions[_printable(entry)] = FoundVersion(reason=f"{path}/{_printable(entry)}: {reason}")
                return FoundModel(_rollout(directory, path, look), None, versions)
        except ModelRefused as exc:
            return FoundModel(None, str(exc), versions)
        finally:
            self._seen[name] = look.seen

    def _version(self, model: int, path: str, version: str, look: Look) -> FoundVersion:
        try:
            with _open(model, version, path, stat.S_IFDIR) as directory:
                stated = _stated(directory, path, look)
                if stated.artefact is not None:
                    file = f"{path}/{stated.artefact}"
                    with _open(directory, stated.artefact, file, stat.S_IFREG) as descriptor:
                        self._check_size(os.fstat(descriptor).st_size, file)
                        digest = look.read("digest", file, descriptor, partial(_digest, descriptor, file))
                        _check_digest(digest, stated.sha256, file)
                return FoundVersion(sha256=stated.sha256, fingerprint=stated.fingerprint)
        except ModelRefused as exc:
            return FoundVersion(reason=str(exc))


def _by_number(names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Versions in numeric order; and what is none, or has the number of another one, with the reason."""
    numbered: dict[tuple[int, ...], str] = {}
    others: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (len(name), name)):  # 1 before 01
        if not VERSION.fullmatch(name):
            others[name] = "not the name of a version, such as 2 or 1.10"
        elif numbered.setdefault(order(name), name) != name:
            others[name] = f"the same number as version {numbered[order(name)]}"
    return [version for _, version in sorted(numbered.items())], others


def _listed(directory: int, path: str) -> list[str]:
    """What is in a directory, less plain files and what is hidden: so is what is still being written."""
    with _told(path, "a directory that can be read"), os.scandir(directory) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and not entry.is_file(follow_symlinks=False)
        )


@contextmanager
def _told(path: str, expected: str) -> Iterator[None]:
    """Tells of a file that cannot be had. Raises ModelRefused."""
    try:
        yield
    except OSError as exc:
        got = _MISSING.get(exc.errno or 0, exc.strerror)
        raise ModelRefused(f"{path}: expected {expected}, got {got}") from exc


@contextmanager
def _open(directory: int, name: str, path: str, kind: int, flags: int = _FLAGS) -> Iterator[int]:
    """The descriptor of what must be of this kind. Raises ModelRefused."""
    with _told(path, _KINDS[kind]):
        descriptor = os.open(name, flags, dir_fd=directory)
    try:
        got = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if got != kind:
            raise ModelRefused(f"{path}: expected {_KINDS[kind]}, got {_KINDS[got]}")
        yield descriptor
    finally:
        os.close(descriptor)


def _read_toml(descriptor: int, name: str, path: str) -> bytes:
    """Raises ModelRefused."""
    with _told(path, "a file that can be read"), os.fdopen(descriptor, "rb", closefd=False) as file:
        text = file.read(_MOST_BYTES[name] + 1)
    _check_toml(text, name, path)
    return text


def _check_toml(text: bytes, name: str, path: str) -> None:
    """Raises ModelRefused for a text that takes too long to parse."""
    if len(text) > _MOST_BYTES[name]:
        raise ModelRefused(f"{path}: the file is larger than {_MOST_BYTES[name]} bytes")
    if _BARE_DOTS.search(text) or len(_QUOTED_DOT.findall(text)) > _MOST_DOTS:
        raise ModelRefused(f"{path}: a key has more than {_MOST_DOTS} parts")


class _Stated(NamedTuple):
    """Of a manifest only what a look needs: all of it may take a hundred times the memory of the file."""

    artefact: str | None
    sha256: str | None
    fingerprint: str

    @classmethod
    def read(cls, descriptor: int, path: str) -> Self:
        """Raises ModelRefused."""
        text = _read_toml(descriptor, MANIFEST, path)
        manifest = Manifest.read(text, path)
        return cls(manifest.artefact, manifest.sha256, hashlib.sha256(text).hexdigest())


def _stated(directory: int, path: str, look: Look) -> _Stated:
    """Raises ModelRefused."""
    file = f"{path}/{MANIFEST}"
    with _open(directory, MANIFEST, file, stat.S_IFREG) as descriptor:
        return look.read("manifest", file, descriptor, partial(_Stated.read, descriptor, file))


def _rollout(directory: int, path: str, look: Look) -> Rollout | None:
    """The rollout in a model's directory, None without one. Raises ModelRefused."""
    file = f"{path}/{ROLLOUT}"
    with _rollout_file(directory, file) as descriptor:
        if descriptor is None:
            return None
        return look.read("rollout", file, descriptor, partial(_read_rollout, descriptor, file))


def _read_rollout(descriptor: int, path: str) -> Rollout:
    """Raises ModelRefused."""
    return Rollout.parse(_read_toml(descriptor, ROLLOUT, path), path)


@contextmanager
def _rollout_file(directory: int, path: str) -> Iterator[int | None]:
    """The descriptor of the rollout in a model's directory, None without one. Raises ModelRefused."""
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(_open(directory, ROLLOUT, path, stat.S_IFREG))
        except ModelRefused as exc:
            if not isinstance(exc.__cause__, FileNotFoundError):
                raise
            descriptor = None
        yield descriptor


def _digest(descriptor: int, path: str) -> str:
    """Raises ModelRefused."""
    with _told(path, "a file that can be read"), FileIO(descriptor, closefd=False) as file:
        return sha256(file)


def _check_digest(digest: str, expected: str | None, path: str) -> None:
    """Raises ModelRefused."""
    if digest != expected:
        raise ModelRefused(f"{path}: expected the sha256 {expected}, got {digest}")


def _printable(name: str) -> str:
    """A name that may hold anything, for a message."""
    text = ascii(name)[1:-1]
    return text if len(text) <= _MOST_PRINTED else f"{text[:_MOST_PRINTED]}..."

"""Opens versions of models in processes of their own, where a hostile or broken artefact takes nothing down with it."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import Manifest
from weighbridge.adapters.repository import Repository
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.process import with_huge_pages
from weighbridge.server.yielding import aside
from weighbridge.settings import PREFIX, Settings

# Without writing bytecode: what is cut off at the limit of a file's size would be taken for whole by the next process.
PROBE = (sys.executable, "-B", "-m", "weighbridge.entrypoints.probe")

_MOST_SAID = 16 * 1024
_SINGLE_THREADED = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_OF_MEMORY = ("MemoryError", "bad_alloc", "Memory allocation", "out of memory")


class Prober:
    """Proves that versions of models can be opened, each once. On one event loop, which it never blocks.

    `command` is the program of the probe, weighbridge.entrypoints.probe, without the descriptor that it is given.
    """

    def __init__(self, settings: Settings, command: Sequence[str] = PROBE) -> None:
        self._settings = settings
        self._command = command
        self._repository = Repository(settings.models, settings.load_memory_bytes, settings.load_timeout)
        self._turn = asyncio.Lock()
        self._proven: set[bytes] = set()

    async def prove(self, name: str, version: str) -> Artefact:
        """The artefact of a version, once that has been opened in a process with bounded time and memory.

        It is read once, for all who open it. Raises ModelRefused.
        """
        async with self._turn:
            manifest, artefact, niceness = await self._read(name, version)
            # It holds the digest of the artefact, which is checked whenever that is read.
            identity = hashlib.sha256(manifest.render()).digest()
            if identity in self._proven:
                return artefact
            await self._probe(name, version, artefact, niceness)
            if manifest.runtime != "python":  # whose code can change while the manifest stays
                self._proven.add(identity)
        return artefact

    async def _read(self, name: str, version: str) -> tuple[Manifest, Artefact, int]:
        """What there is of a version, and the niceness with which that was read. Raises ModelRefused."""

        def read() -> tuple[Manifest, Artefact, int]:
            manifest = self._repository.manifest(name, version)
            artefact = self._repository.artefact(name, version, manifest)
            return manifest, artefact, os.getpriority(os.PRIO_PROCESS, 0)  # of this thread

        try:
            async with asyncio.timeout(self._settings.load_timeout):
                return await aside(read)
        except TimeoutError as exc:
            limit = f"{self._settings.load_timeout:g} seconds, WEIGHBRIDGE_LOAD_TIMEOUT"
            raise ModelRefused(f"models/{name}/{version}: expected to be read within {limit}, got no end") from exc
        except (OSError, MemoryError) as exc:
            got = f"{type(exc).__name__}: {exc}"
            raise ModelRefused(f"models/{name}/{version}: expected to be read, got {got}") from exc

    async def _probe(self, name: str, version: str, artefact: Artefact, niceness: int) -> None:
        path = f"models/{name}/{version}"
        try:
            request = {
                "settings": self._settings.snapshot(),
                "name": name,
                "version": version,
                "artefact": [artefact.descriptor, artefact.sha256()],
                "parent": os.getpid(),
            }
            asked = json.dumps(request).encode()
            end = await _run(self._command, asked, artefact, niceness, self._settings.load_timeout)
        except OSError as exc:
            raise ModelRefused(f"{path}: expected a process to open it in, got none: {exc.strerror}") from exc
        match end.verdict():
            case {"opened": True}:
                return
            case {"refused": str(reason)}:
                raise ModelRefused(reason)
            case {"out_of_memory": str(reason)}:
                raise ModelRefused(f"{self._short_of_memory(path)}: {reason}")
        if not end.in_time:
            limit = f"{self._settings.load_timeout:g} seconds, WEIGHBRIDGE_LOAD_TIMEOUT"
            raise ModelRefused(f"{path}: expected to be opened within {limit}, got no end")
        if any(sign in end.last_error for sign in _OF_MEMORY):
            raise ModelRefused(f"{self._short_of_memory(path)}: {end.last_error}")
        raise ModelRefused(f"{path}: expected to be opened, got a process that {end}")

    def _short_of_memory(self, path: str) -> str:
        limit = f"{self._settings.load_memory_bytes} bytes of memory, WEIGHBRIDGE_LOAD_MEMORY_BYTES"
        return f"{path}: expected to be opened within {limit}, got more"


@dataclass(frozen=True, slots=True)
class _End:
    """How a probe ended, and what it said."""

    code: int
    in_time: bool
    said: bytes
    last_error: str

    def verdict(self) -> Any:
        """What it said of the version, None unless it is whole."""
        try:
            return json.loads(self.said) if self.said.endswith(b"\n") else None
        except (ValueError, RecursionError):
            return None

    def __str__(self) -> str:
        how = (
            f"ended with code {self.code} and said nothing"
            if self.code >= 0
            else f"was killed by signal {-self.code} ({signal.strsignal(-self.code)})"
        )
        return f"{how}: {self.last_error}" if self.last_error else how


async def _run(command: Sequence[str], request: bytes, artefact: Artefact, niceness: int, seconds: float) -> _End:
    """Run a probe to its end, or until its time is over. Raises OSError when there is no process to be had."""
    # Files in memory, not pipes: nothing has to be drained meanwhile, whoever has them open.
    with _memory_file() as given, _memory_file() as said, _memory_file() as errors:
        given.write(request)
        given.seek(0)
        process = _start(command, given, said, errors, artefact)
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, process.pid, niceness)  # until it gives way by itself
        in_time = await _ended(process, seconds)
        lines = _last(errors).decode(errors="replace").split("\n")
        return _End(process.wait(), in_time, _last(said), next((line for line in reversed(lines) if line.strip()), ""))


def _start(
    command: Sequence[str], given: IO[bytes], said: IO[bytes], errors: IO[bytes], artefact: Artefact
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, str(said.fileno())],
        stdin=given,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=[said.fileno(), artefact.descriptor],
        env=_environment(),
        # A group of its own, which ends with it; but no session, which Linux' autogroups would weigh against all of the
        # service, however nice it is.
        process_group=0,
    )


async def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process ended in time; in any case it has ended then, and its children with it. Raises OSError."""
    ended = asyncio.Event()
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
        return True
    except TimeoutError:
        return False
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # before it is waited for, so that the group is surely its own
        await ended.wait()
        loop.remove_reader(pidfd)
        os.close(pidfd)
        process.wait()


def _environment() -> Mapping[str, str]:
    """That of this process, less the settings: a token may be among them."""
    others = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    return with_huge_pages(others | _SINGLE_THREADED)


def _memory_file() -> IO[bytes]:
    return os.fdopen(os.memfd_create("probe"), "r+b", buffering=0)


def _last(file: IO[bytes]) -> bytes:
    """The last that was written to a file."""
    descriptor = file.fileno()
    return os.pread(descriptor, _MOST_SAID, max(0, os.fstat(descriptor).st_size - _MOST_SAID))

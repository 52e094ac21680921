"""The sandbox, entered by threads of this process: the kernel restricts each thread by itself."""

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from weighbridge.adapters.system.sandbox import Sandbox
from weighbridge.settings import NO_RIGHTS, Rights

WHOLE = Sandbox.offered()

ResultT = TypeVar("ResultT")


def confined(function: Callable[[], ResultT], rights: Rights = NO_RIGHTS, sandbox: Sandbox = WHOLE) -> ResultT:
    """What a function gives, or raises, in a thread that has entered the sandbox."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(sandbox.enter, rights).result()
        return thread.submit(function).result()


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def connect(port: int) -> None:
    with closing(socket.create_connection(("127.0.0.1", port))):
        pass


def test_this_machine_offers_a_whole_sandbox() -> None:
    assert WHOLE.lacking == []
    assert WHOLE.words == f"Landlock, version {WHOLE.landlock}; system calls are filtered"


ATTEMPTS: dict[str, Callable[[Path], object]] = {
    "read a file": lambda home: (home / "file").read_text(),
    "list a directory": lambda home: list(home.iterdir()),
    "read a user's names": lambda _: Path("/etc/passwd").read_text(),
    "read the working directory": lambda _: Path("file").read_text(),
    "read another process": lambda _: Path("/proc/1/cmdline").read_bytes(),
    "write a file": lambda home: (home / "new").write_text("x"),
    "append to a file": lambda home: (home / "file").open("a"),
    "make a directory": lambda home: (home / "new").mkdir(),
    "remove a file": lambda home: (home / "file").unlink(),
    "write below a place that it reads": lambda _: Path(pytest.__file__).with_name("new").write_text("x"),
    "run a program": lambda _: subprocess.run([sys.executable, "-V"], check=True),
    "open a socket": lambda _: socket.socket(),
    "open a datagram socket": lambda _: socket.socket(type=socket.SOCK_DGRAM),
    "open a socket with a path": lambda _: socket.socket(socket.AF_UNIX),
    "signal another process": lambda _: os.kill(os.getppid(), 0),
    "leave its group": lambda _: os.setsid(),
    "look into another process": lambda _: _trace(os.getppid()),
}


def _trace(pid: int) -> None:
    """Attach to a process as a debugger does (PTRACE_SEIZE); the error is of number 0 where that is let."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace(0x4206, pid, None, None)
    raise OSError(ctypes.get_errno(), "ptrace")


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_process_in_the_sandbox_cannot(attempt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a secret")

    with pytest.raises(PermissionError):
        confined(lambda: ATTEMPTS[attempt](tmp_path))

    assert (tmp_path / "file").read_text() == "a secret"


def test_a_process_in_the_sandbox_computes_imports_and_has_memory_in_common() -> None:
    def work() -> tuple[Any, ...]:
        ours, theirs = socket.socketpair()
        with ours, theirs, os.fdopen(os.memfd_create("x"), "w") as memory:
            ours.send(b"x")
            memory.write("x")
            memory.flush()
            Path(os.devnull).write_text("x")
            return theirs.recv(1), Path(f"/proc/self/fd/{memory.fileno()}").read_text(), Path(os.__file__).exists()

    assert confined(work) == (b"x", "x", True)


def test_rights_are_given_by_path(tmp_path: Path) -> None:
    for name in ("read", "write", "neither"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    rights = Rights(read=(str(tmp_path / "read"), str(tmp_path / "neither/file")), write=(str(tmp_path / "write"),))

    def work() -> str:
        (tmp_path / "write/new").write_text((tmp_path / "read/file").read_text())
        (tmp_path / "write/file").unlink()
        with pytest.raises(PermissionError):
            (tmp_path / "read/file").write_text("y")
        with pytest.raises(PermissionError):
            list((tmp_path / "neither").iterdir())
        return (tmp_path / "neither/file").read_text() + (tmp_path / "write/new").read_text()

    assert confined(work, rights) == "xx"


def test_a_right_to_a_place_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        confined(lambda: None, Rights(read=(str(tmp_path / "nothing"),)))


def test_rights_are_given_by_port(port: int) -> None:
    def work() -> list[str]:
        connect(port)
        refused = []
        for attempt in (lambda: connect(port + 1), lambda: socket.socket(socket.AF_UNIX), lambda: socket.socket(16)):
            with pytest.raises(PermissionError) as refusal:
                attempt()
            refused.append(errno.errorcode[refusal.value.errno or 0])
        assert socket.getaddrinfo("localhost", port)
        return refused

    assert confined(work, Rights(connect=(port,))) == ["EACCES", "EPERM", "EPERM"]


def test_landlock_alone_restricts_files_and_tcp(port: int, tmp_path: Path) -> None:
    sandbox = Sandbox(WHOLE.landlock, filters=False)

    for attempt in (lambda: connect(port), lambda: list(tmp_path.iterdir())):
        with pytest.raises(PermissionError):
            confined(attempt, sandbox=sandbox)
    assert sandbox.lacking == ["libseccomp"]


def test_the_filter_alone_refuses_sockets(tmp_path: Path) -> None:
    sandbox = Sandbox(0, filters=True)

    with pytest.raises(PermissionError):
        confined(socket.socket, sandbox=sandbox)
    assert confined(lambda: list(tmp_path.iterdir()), sandbox=sandbox) == []
    assert sandbox.lacking == ["Landlock of version 6 or later in the kernel"]


def test_a_machine_without_the_libraries_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("landlockpy", "pyseccomp"):
        monkeypatch.setitem(sys.modules, name, None)

    assert Sandbox.offered() == Sandbox(0, filters=False)
    assert Sandbox.offered().words == "no Landlock; no filter of system calls"

"""The service under systemd, whose part is played here: it passes the socket on, and hears what it is told."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.contract import GOOD
from tests.integration.service import COMMAND, environment, read_to_the_end
from tests.waiting import DEADLINE

pytestmark = pytest.mark.usefixtures("measured")

REQUEST = (
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(GOOD), GOOD)
)
PROBE = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
# The descriptor is 3, and the variables name the very process that has it.
HAND_ON = """
import os, sys
descriptor, *program = sys.argv[1:]
os.dup2(int(descriptor), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *program])
"""


class Systemd:
    """Its two sockets: the one on which the service listens, and the one on which it tells of itself."""

    def __init__(self, listener: socket.socket, hearing: socket.socket) -> None:
        self._listener = listener
        self._hearing = hearing
        self._hearing.settimeout(DEADLINE)

    @contextmanager
    def serving(self, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """The service, from when it is said to be ready; whatever happens, its process has ended afterwards."""
        descriptor = self._listener.fileno()
        python, *module = COMMAND
        with subprocess.Popen(
            [python, "-S", "-c", HAND_ON, str(descriptor), *module, "serve"],
            pass_fds=[descriptor],
            env={
                **environment({"ADMIN_PORT": "0"}),
                "LISTEN_FDS": "1",
                "NOTIFY_SOCKET": self._hearing.getsockname(),
                **variables,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                assert self.hear() == ["READY=1"]
                yield process
            finally:
                process.terminate()
                process.wait(DEADLINE)

    def hear(self) -> list[str]:
        """The lines of the next message of the service."""
        return self._hearing.recv(4096).decode().splitlines()

    def connect(self, request: bytes) -> socket.socket:
        """A connection to the socket, whoever answers it, on which a request has been sent."""
        connection = socket.create_connection(self._listener.getsockname(), timeout=DEADLINE)
        connection.sendall(request)
        return connection


def status_of(connection: socket.socket) -> bytes:
    """The status line of the reply to the last request of a connection, which ends."""
    with connection:
        return read_to_the_end(connection).partition(b"\r\n")[0]


@contextmanager
def listening(directory: Path) -> Iterator[Systemd]:
    """systemd, with a socket that it listens on for the service, and another one in a directory."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hearing,
    ):
        hearing.bind(os.fspath(directory / "notify"))
        yield Systemd(listener, hearing)


class Running(NamedTuple):
    """The service with its systemd, and the file with its settings."""

    systemd: Systemd
    process: subprocess.Popen[bytes]
    config: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The service, said to be ready; tests after which it is so again share it."""
    directory = tmp_path_factory.mktemp("systemd")
    config = directory / "weighbridge.toml"
    config.touch()
    with listening(directory) as systemd, systemd.serving(WEIGHBRIDGE_CONFIG=os.fspath(config)) as process:
        yield Running(systemd, process, config)


def test_it_is_said_to_be_ready_when_it_answers(running: Running) -> None:
    assert status_of(running.systemd.connect(PROBE)) == b"HTTP/1.1 200 OK"


class Followed(NamedTuple):
    """What came of one service that was followed by another: the replies, and all that the first said at its end."""

    before: bytes
    meanwhile: set[bytes]
    afterwards: bytes
    last_word: list[str]
    code: int
    complaint: bytes
    beats: list[list[str]]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """One service follows another, and that shows its watchdog that it lives."""
    with listening(tmp_path_factory.mktemp("systemd")) as systemd:
        early = systemd.connect(REQUEST)
        with systemd.serving() as process:
            before = status_of(early)
            process.terminate()
            connections = [systemd.connect(REQUEST) for _ in range(100)]
            last_word = systemd.hear()
            _, complaint = process.communicate(timeout=DEADLINE)
        last = systemd.connect(REQUEST)
        with systemd.serving(WATCHDOG_USEC="100000"):
            meanwhile = {status_of(connection) for connection in connections}
            beats = [systemd.hear() for _ in range(3)]
            return Followed(before, meanwhile, status_of(last), last_word, process.returncode, complaint, beats)


def test_what_connects_before_it_is_ready_is_answered_then(followed: Followed) -> None:
    assert followed.before == b"HTTP/1.1 200 OK"


def test_it_says_that_it_stops(followed: Followed) -> None:
    assert (followed.last_word, followed.code, followed.complaint) == (["STOPPING=1"], 0, b"")


def test_what_connects_after_its_end_waits_for_the_next(followed: Followed) -> None:
    assert followed.afterwards == b"HTTP/1.1 200 OK"


def test_nothing_is_lost_while_one_service_follows_another(followed: Followed) -> None:
    assert followed.meanwhile == {b"HTTP/1.1 200 OK"}


def test_it_shows_the_watchdog_that_it_lives(followed: Followed) -> None:
    assert followed.beats == [["WATCHDOG=1"]] * 3


def test_it_says_that_it_reloads_and_when_that_is_done(running: Running) -> None:
    running.process.send_signal(signal.SIGHUP)
    state, since = running.systemd.hear()

    assert state == "RELOADING=1"
    assert since.startswith("MONOTONIC_USEC=")
    assert running.systemd.hear() == ["READY=1"]


def test_a_reload_that_is_refused_is_done_as_well(running: Running) -> None:
    running.config.write_text("no_setting = 1")
    running.process.send_signal(signal.SIGHUP)

    assert running.systemd.hear()[0] == "RELOADING=1"
    assert running.systemd.hear() == ["READY=1"]
    assert status_of(running.systemd.connect(REQUEST)) == b"HTTP/1.1 200 OK"
    running.config.write_text("")

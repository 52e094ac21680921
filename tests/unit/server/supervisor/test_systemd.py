import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.waiting import DEADLINE
from weighbridge.server.supervisor.systemd import notify, notify_reloading, watchdog_interval

pytestmark = pytest.mark.usefixtures("measured")

# Inherits one descriptor after the other, as its third, with the variables that come with it.
HEIR = """
import json, os, socket, sys
from weighbridge.server.supervisor.systemd import inherited_listener
from weighbridge.settings import InvalidSettings
parent = socket.socket(fileno=int(sys.argv[1]))
while (received := socket.recv_fds(parent, 4096, 1))[0]:
    variables, off_by = json.loads(received[0])
    os.dup2(received[1][0], 3)
    os.environ.update(variables, LISTEN_PID=str(os.getpid() + off_by))
    try:
        listener = inherited_listener()
    except InvalidSettings as exc:
        outcome = str(exc)
    else:
        outcome = listener and [*listener.getsockname()[:2], listener.get_inheritable(), listener.detach()]
    parent.send(json.dumps([outcome, [name for name in os.environ if name.startswith("LISTEN_")]]).encode())
"""


class Heir:
    """A process that inherits what it is given, as one that systemd starts does."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def inherits(self, passed: socket.socket | int, *, off_by: int = 0, **variables: str) -> tuple[Any, list[str]]:
        """What becomes of a descriptor, and which of the variables are left; `off_by` has it meant for another one."""
        descriptor = passed if isinstance(passed, int) else passed.fileno()
        socket.send_fds(self._connection, [json.dumps([variables, off_by]).encode()], [descriptor])
        outcome, left = json.loads(self._connection.recv(4096))
        return outcome, left


@pytest.fixture(scope="module")
def heir() -> Iterator[Heir]:
    """One for all that is passed on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.settimeout(DEADLINE)
        with theirs:
            process = subprocess.Popen([sys.executable, "-c", HEIR, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        yield Heir(ours)
    assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_socket_that_is_passed_on_is_the_listener(heir: Heir, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as passed:
        outcome, left = heir.inherits(passed, LISTEN_FDS="1", LISTEN_FDNAMES="weighbridge.socket", LISTEN_PIDFDID="7")

        assert outcome == [*passed.getsockname()[:2], False, 3]
        assert left == []


@pytest.mark.parametrize(("off_by", "variables"), [(0, {}), (1, {"LISTEN_FDS": "1"})], ids=["nobody", "another"])
def test_a_socket_that_is_meant_for_nobody_or_another_process_is_left_alone(
    heir: Heir, off_by: int, variables: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        assert heir.inherits(passed, off_by=off_by, **variables) == (None, [])


def test_two_sockets_are_one_too_many(heir: Heir) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        outcome, left = heir.inherits(passed, LISTEN_FDS="2")

    assert outcome == "LISTEN_FDS: expected 1 socket, that of the service's port, got 2"
    assert left == []


def test_a_descriptor_that_is_no_socket_is_refused(heir: Heir) -> None:
    reading, writing = os.pipe()
    outcome, _ = heir.inherits(reading, LISTEN_FDS="1")
    os.close(reading)
    os.close(writing)

    assert outcome == "LISTEN_FDS: the descriptor is not a socket: Socket operation on non-socket"


def test_a_socket_that_does_not_listen_is_refused(heir: Heir) -> None:
    with socket.socket() as passed:
        outcome, _ = heir.inherits(passed, LISTEN_FDS="1")

    assert outcome == "LISTEN_FDS: the socket is not a listening TCP socket; check its ListenStream="


def test_a_socket_of_another_family_is_refused(heir: Heir, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(tmp_path / "socket"))
        passed.listen()
        outcome, _ = heir.inherits(passed, LISTEN_FDS="1")

    assert outcome == "LISTEN_FDS: the socket is not a listening TCP socket; check its ListenStream="


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket on which systemd would hear."""
    name = str(tmp_path / "notify") if request.param == "path" else f"\0weighbridge-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hearing:
        hearing.bind(name)
        hearing.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        yield hearing


def test_systemd_is_told_in_one_message(systemd: socket.socket) -> None:
    notify("READY=1", "STATUS=serving")

    assert systemd.recv(1024) == b"READY=1\nSTATUS=serving"


def test_systemd_is_told_since_when_settings_are_read_anew(systemd: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    notify_reloading()
    state, since = systemd.recv(1024).decode().splitlines()

    assert state == "RELOADING=1"
    assert before <= int(since.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_who_does_not_listen_is_told_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")

    for gone in (tmp_path / "gone", tmp_path / ("x" * 200), "vsock:2:1234"):
        monkeypatch.setenv("NOTIFY_SOCKET", str(gone))
        notify("READY=1")

    assert list(tmp_path.iterdir()) == []


def test_who_listens_but_does_not_read_holds_nothing_up(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weighbridge.server.supervisor.systemd._NOTIFY_SECONDS", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as crowd:
        crowd.setblocking(False)
        with pytest.raises(BlockingIOError):
            fill(crowd, systemd.getsockname())

    notify("READY=1")

    assert systemd.recv(1024) == b"something else"


def fill(sender: socket.socket, address: str | bytes) -> NoReturn:
    """Send until there is no more room."""
    while True:
        sender.sendto(b"something else", address)


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_must(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], seconds: float | None
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert watchdog_interval() == seconds

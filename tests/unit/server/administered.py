"""An admin listener that a test can ask: a real one, in a thread and a loop of its own."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvloop

from tests.waiting import DEADLINE
from weighbridge.server.catalogue import Catalogue, Outcome
from weighbridge.server.runner.runners import RunnerReport
from weighbridge.server.supervisor.control import ControlPlane, WorkerReport, serve_control
from weighbridge.server.supervisor.listener import listen

REPORT = WorkerReport(pid=7, state="ready", age_seconds=1.5, connections=2, restarts=1, reason="killed by SIGKILL")
RUNNER = RunnerReport(model="m", version="2", runner=1, pid=8, age_seconds=2.5, calls=10, rows=90, busy_seconds=0.75)


class FakeFleet:
    """Workers that a test describes."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.text = b"up 1\n"

    def not_ready(self) -> str | None:
        return self.reason

    def workers(self) -> list[WorkerReport]:
        return [REPORT]

    def metrics(self) -> bytes:
        return self.text


class FakeOperator:
    """Operates on a model m, of which version 2 is live; a test says how."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.asked: list[tuple[str, ...]] = []
        self.failure: Exception | None = None
        self.done = threading.Event()
        self.done.set()

    def runners(self) -> list[RunnerReport]:
        return [RUNNER]

    async def activate(self, name: str, version: str) -> Outcome:
        return await self._operate("activate", name, version)

    async def rollback(self, name: str) -> Outcome:
        return await self._operate("rollback", name)

    async def reload(self, name: str) -> Outcome:
        return await self._operate("reload", name)

    async def _operate(self, *asked: str) -> Outcome:
        self.asked.append(asked)
        await asyncio.to_thread(self.done.wait, DEADLINE)
        if self.failure is not None:
            raise self.failure
        return Outcome("m", "2", "1", persisted=False)


class Reply:
    """A whole reply, taken apart."""

    def __init__(self, received: bytes) -> None:
        head, _, self.body = received.partition(b"\r\n\r\n")
        start, *lines = head.decode().split("\r\n")
        self.status = int(start.split()[1])
        self.headers = dict(line.split(": ", 1) for line in lines)

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


class Admin:
    """An admin listener that answers."""

    def __init__(self, fleet: FakeFleet, operator: FakeOperator, address: tuple[str, int]) -> None:
        self.fleet = fleet
        self.operator = operator
        self.address = address
        self.failures: list[tuple[Exception, str]] = []

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(self.address, timeout=DEADLINE)

    def send(self, *pieces: bytes) -> bytes:
        """All that comes back for these pieces, until the connection ends."""
        with self.connect() as connection:
            with suppress(ConnectionError):  # it need not read all
                for piece in pieces:
                    connection.sendall(piece)
            return read_to_the_end(connection)

    def ask(self, path: str, *lines: str, method: str = "GET", host: str = "localhost") -> Reply:
        """The reply to a request with these lines in its head."""
        head = "\r\n".join((f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""))
        return Reply(self.send(head.encode()))


def read_to_the_end(connection: socket.socket) -> bytes:
    """All that comes; a connection that is cut ends, too."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


@contextmanager
def administered(fleet: FakeFleet, token: str | None = None) -> Iterator[Admin]:
    """An admin listener, in a thread and a loop of its own."""
    listener = listen("127.0.0.1", 0)
    admin = Admin(fleet, FakeOperator(), listener.getsockname())
    started = threading.Event()
    loop = uvloop.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        app = ControlPlane(
            fleet,
            admin.operator,
            token=token,
            failed=lambda exc, request_id: admin.failures.append((exc, request_id)),
        )
        async with serve_control(app, listener):
            started.set()
            await stop.wait()

    def run_loop() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=run_loop)
    thread.start()
    assert started.wait(DEADLINE)
    try:
        yield admin
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE)
        assert not thread.is_alive()

"""Closed-loop clients that account for every request, in a process of their own.

They are plain sockets on one epoll: nothing else tells for certain whether anything of a request was written before its
connection ended. Half of them keep their connections, half open one for each request.
"""

import heapq
import os
import select
import socket
from array import array
from contextlib import suppress
from dataclasses import dataclass
from errno import EINPROGRESS
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import monotonic
from types import TracebackType
from typing import Self, cast

from benchmarks.results import BenchmarkFailed
from benchmarks.torture.exchanges import HOST, LOST, UNSENT, Ask, Journal, Reply, entry

_RETRY_SECONDS = 0.02
_PATIENCE_SECONDS = 15.0
"""A reply that has not come by then never will."""
_LOOK_SECONDS = 0.02
_STOP_SECONDS = 60.0
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who asks what: clients that keep their connections, those that do not, their requests in turn, their pauses."""

    port: int
    kept: int = 16
    fresh: int = 16
    asks: tuple[Ask, ...] = (Ask(),)
    pause_seconds: float = 0.0
    core: int | None = None
    """The only core on which they run, if it matters."""


class Load:
    """A crowd at work from `with` on, until `stop`."""

    def __init__(self, crowd: Crowd) -> None:
        context = get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(crowd, theirs), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._ours.recv()  # it is there
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()

    def stop(self) -> Journal:
        """Send no more, wait for the replies that are due, and give all that happened. Raises BenchmarkFailed."""
        self._ours.send("stop")
        if not self._ours.poll(_STOP_SECONDS):
            raise BenchmarkFailed("expected the clients to stop, got nothing from them; run it again")
        entries = array("d")
        entries.frombytes(self._ours.recv_bytes())
        self._process.join()
        return Journal.of(entries)


def _run(crowd: Crowd, commands: Connection) -> None:
    if crowd.core is not None:
        os.sched_setaffinity(0, {crowd.core})
    commands.send("here")
    commands.send_bytes(_Clients(crowd).run_until_told(commands))


class _Clients:
    """All clients of a process, and what each waits for."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.journal = array("d")
        self.epoll = select.epoll()
        self.by_descriptor: dict[int, _Client] = {}
        self._due: list[tuple[float, int]] = []
        self._clients = [_Client(number, self, keeps=number < crowd.kept) for number in range(crowd.kept + crowd.fresh)]

    def again(self, client: "_Client", seconds: float) -> None:
        """Have the client ask again after so long."""
        heapq.heappush(self._due, (monotonic() + seconds, client.number))

    def run_until_told(self, commands: Connection) -> "array[float]":
        """Ask until something comes through `commands`, and then wait for what is under way."""
        for client in self._clients:
            self.again(client, 0.0)
        looked, stopping = 0.0, False
        while not stopping or any(client.waits for client in self._clients):
            now = monotonic()
            while not stopping and self._due and self._due[0][0] <= now:
                self._clients[heapq.heappop(self._due)[1]].ask()
            for descriptor, _ in self.epoll.poll(self._until_due(now)):
                if descriptor in self.by_descriptor:
                    self.by_descriptor[descriptor].ready()
            if now - looked > _LOOK_SECONDS:
                looked = now
                stopping = stopping or commands.poll()
                for client in self._clients:
                    client.lose_patience(now)
        return self.journal

    def _until_due(self, now: float) -> float:
        return min(_LOOK_SECONDS, max(0.0, self._due[0][0] - now)) if self._due else _LOOK_SECONDS


class _Client:
    """Asks, waits for the whole reply, and asks again."""

    def __init__(self, number: int, clients: _Clients, *, keeps: bool) -> None:
        self.number = number
        self.waits = False
        self._clients = clients
        self._keeps = keeps
        first = number % len(clients.crowd.asks)
        asks = clients.crowd.asks[first:] + clients.crowd.asks[:first]
        self._asks = cycle([(ask, ask.wire(keeps=keeps)) for ask in asks])
        self._socket: socket.socket | None = None
        self._port = 0
        self._connected = False
        self._first_on_it = True

    def ask(self) -> None:
        """Send the next request: on the kept connection if that still stands, and otherwise on a new one."""
        self._ask, self._wire = next(self._asks)
        self._unwritten = self._wire
        self._reply = Reply()
        self._began = monotonic()
        self.waits = True
        if self._socket is not None and self._has_ended():
            self._close()
        if self._socket is None:
            self._connect()
        else:
            self._write()

    def ready(self) -> None:
        """Something happened to the connection."""
        connection = cast("socket.socket", self._socket)
        if not self._connected:
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._end(UNSENT)
                return
            self._connected = True
            self._port = connection.getsockname()[1]
            self._clients.epoll.modify(connection, select.EPOLLIN)
            self._write()
        elif self._unwritten and self.waits:
            self._write()
        elif not self.waits:  # the server ends a connection at rest
            self._close()
        else:
            self._read()

    def lose_patience(self, now: float) -> None:
        """Give up a request that has waited for too long."""
        if self.waits and now - self._began > _PATIENCE_SECONDS:
            self._end(UNSENT if self._unwritten == self._wire else LOST)

    def _has_ended(self) -> bool:
        """Whether the server has closed, or spoken unasked on, the connection at rest."""
        try:
            cast("socket.socket", self._socket).recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _connect(self) -> None:
        connection = self._socket = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connected, self._first_on_it, self._port = False, True, 0
        if connection.connect_ex((HOST, self._clients.crowd.port)) not in {0, EINPROGRESS}:
            self._end(UNSENT)
            return
        self._clients.by_descriptor[connection.fileno()] = self
        self._clients.epoll.register(connection, select.EPOLLOUT)

    def _write(self) -> None:
        connection = cast("socket.socket", self._socket)
        try:
            written = connection.send(self._unwritten)
        except BlockingIOError:
            written = 0
        except OSError:
            if self._unwritten != self._wire:
                self._end(LOST)
            elif self._first_on_it:
                self._end(UNSENT)
            else:  # it ended at rest, between the look at it and now
                self._close()
                self._connect()
            return
        self._unwritten = self._unwritten[written:]
        if self._unwritten or written < len(self._wire):
            self._clients.epoll.modify(connection, select.EPOLLOUT if self._unwritten else select.EPOLLIN)

    def _read(self) -> None:
        try:
            data = cast("socket.socket", self._socket).recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(LOST)
        elif self._reply.take(data):
            self._end(self._reply.status)

    def _end(self, outcome: int) -> None:
        good = outcome > LOST and self._reply.answers(self._ask)
        ended = monotonic()
        self._clients.journal.extend(entry(self.number, self._began, ended, outcome, good=good, port=self._port))
        self.waits = False
        self._first_on_it = False
        if outcome <= LOST or self._reply.closes or not self._keeps:
            self._close()
        pause = _RETRY_SECONDS if outcome == UNSENT else self._clients.crowd.pause_seconds
        self._clients.again(self, pause)

    def _close(self) -> None:
        if self._socket is not None:
            with suppress(KeyError):
                del self._clients.by_descriptor[self._socket.fileno()]
            self._socket.close()  # which takes it from the epoll as well
        self._socket = None

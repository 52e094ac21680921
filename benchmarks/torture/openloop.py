"""An open loop: requests are due at times that no reply can move, on connections that are there beforehand."""

import os
import select
import socket
from array import array
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from errno import EINPROGRESS
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import monotonic, sleep

import numpy as np

from benchmarks.results import BenchmarkFailed
from benchmarks.torture.exchanges import HOST, LOST, UNSENT, Ask, Journal, Reply, Vector, entry

_CHUNK = 65536
_PATIENCE_SECONDS = 10.0
_LEAD_SECONDS = 0.2
_CONNECT_SECONDS = 0.002
_SEED = 4


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Poisson arrivals at `rates` (a second), each for so many seconds, one after the other."""

    port: int
    ask: Ask
    rates: tuple[tuple[float, float], ...]
    connections: int
    core: int | None = None

    def arrivals(self) -> Vector:
        """When requests are due, in seconds from the start; the same in every run."""
        random = np.random.default_rng(_SEED)
        start, pieces = 0.0, []
        for rate, seconds in self.rates:
            times = np.cumsum(random.exponential(1 / rate, int(rate * seconds * 1.2 + 100)))
            pieces.append(start + times[times < seconds])
            start += seconds
        return np.concatenate(pieces)

    def run(self) -> tuple[float, Journal]:
        """Start of the schedule, and every request: a process of its own sends them. Raises BenchmarkFailed."""
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_run, args=(self, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            start: float = ours.recv()
            entries = array("d")
            entries.frombytes(ours.recv_bytes())
        except EOFError as exc:
            raise BenchmarkFailed("expected the open loop to run to its end, got none; see its traceback") from exc
        finally:
            process.join()
        return start, Journal.of(entries)


def _run(loop: OpenLoop, results: Connection) -> None:
    if loop.core is not None:
        os.sched_setaffinity(0, {loop.core})
    sender = _Sender(loop)
    start = sender.run()
    results.send(start)
    results.send_bytes(sender.journal)


class _Lane:
    """A connection, and the request that is under way on it."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.due: float | None = None
        self.reply = Reply()


class _Sender:
    def __init__(self, loop: OpenLoop) -> None:
        self.journal = array("d")
        self._loop = loop
        self._wire = loop.ask.wire(keeps=True)
        self._epoll = select.epoll()
        self._lanes: dict[int, _Lane] = {}
        self._idle: deque[_Lane] = deque()
        self._sent = 0

    def run(self) -> float:
        """Send all, wait for the replies; the time at which the schedule began."""
        for _ in range(self._loop.connections):
            self._connect(_Lane())
            self._attend(_CONNECT_SECONDS)  # one by one: to connect all at once is another load
        until = monotonic() + _PATIENCE_SECONDS
        while len(self._idle) < self._loop.connections and monotonic() < until:
            self._attend(0.01)
        start = monotonic() + _LEAD_SECONDS
        due = (start + self._loop.arrivals()).tolist()
        number, end = 0, due[-1] + _PATIENCE_SECONDS
        while number < len(due) or (any(lane.due is not None for lane in self._lanes.values()) and monotonic() < end):
            now = monotonic()
            while number < len(due) and due[number] <= now:
                self._send(due[number])
                number += 1
            self._attend(max(0.0, due[number] - monotonic()) if number < len(due) else 0.01)
        for lane in list(self._lanes.values()):
            if lane.due is not None:
                self._record(lane, LOST, good=False)
            if lane.socket is not None:
                lane.socket.close()
            sleep(_CONNECT_SECONDS)  # to end them all at once is another load
        return start

    def _connect(self, lane: _Lane) -> None:
        lane.socket = connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if connection.connect_ex((HOST, self._loop.port)) in {0, EINPROGRESS}:
            self._lanes[connection.fileno()] = lane
            self._epoll.register(connection, select.EPOLLOUT)

    def _renew(self, lane: _Lane) -> None:
        if lane.socket is not None:
            del self._lanes[lane.socket.fileno()]
            lane.socket.close()
        with suppress(ValueError):
            self._idle.remove(lane)
        self._connect(lane)

    def _send(self, due: float) -> None:
        if not self._idle:
            self._note(due, UNSENT, good=False)
            return
        lane = self._idle.popleft()
        lane.due, lane.reply = due, Reply()
        connection = lane.socket
        try:
            written = 0 if connection is None else connection.send(self._wire)
        except OSError:
            written = 0
        if written != len(self._wire):
            self._record(lane, LOST if written else UNSENT, good=False)
            self._renew(lane)

    def _attend(self, seconds: float) -> None:
        for descriptor, event in self._epoll.poll(seconds):
            lane = self._lanes.get(descriptor)
            if lane is None or lane.socket is None:
                continue
            if event & select.EPOLLOUT:  # it is connected, or never will be
                if lane.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self._renew(lane)
                else:
                    self._epoll.modify(lane.socket, select.EPOLLIN)
                    self._idle.append(lane)
            else:
                self._read(lane, lane.socket)

    def _read(self, lane: _Lane, connection: socket.socket) -> None:
        try:
            data = connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or lane.due is None:
            if lane.due is not None:
                self._record(lane, LOST, good=False)
            self._renew(lane)
        elif lane.reply.take(data):
            self._record(lane, lane.reply.status, good=lane.reply.answers(self._loop.ask))
            if lane.reply.closes:
                self._renew(lane)
            else:
                self._idle.append(lane)

    def _record(self, lane: _Lane, outcome: int, *, good: bool) -> None:
        if lane.due is not None:
            self._note(lane.due, outcome, good=good)
        lane.due = None

    def _note(self, due: float, outcome: int, *, good: bool) -> None:
        self.journal.extend(entry(self._sent, due, monotonic(), outcome, good=good, port=0))
        self._sent += 1

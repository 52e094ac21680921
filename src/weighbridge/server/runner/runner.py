"""The loop of a runner: takes what workers have asked for as its next call, and answers."""

import selectors
import socket
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from math import ceil, log2
from time import monotonic
from typing import NamedTuple

import numpy as np

from weighbridge.adapters.runners import frames
from weighbridge.adapters.runners.frames import Failure, Frame, Inbox
from weighbridge.application.ports import Model
from weighbridge.domain.batch import DTYPES, Batch, Outputs, Rows
from weighbridge.domain.errors import FeatureTooLarge
from weighbridge.server.channel import Channel, Word
from weighbridge.server.runner.out_of_memory import is_of_memory
from weighbridge.server.runner.vitals import RunnerVitals

_MOST_BYTES = 2**32 - 1  # workers are trusted
_AT_ONCE = 1024 * 1024


class OutOfMemory(Exception):
    """A call needed more memory than the runner may have."""


class _Peer:
    """A worker that asks."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end
        self.inbox = Inbox(_MOST_BYTES)
        self.unsent = bytearray()

    def send(self, frame: bytes) -> None:
        """Send a frame, or as much of it as can be sent now, and the rest later."""
        self.unsent += frame
        self.flush()

    def flush(self) -> None:
        """Send what is left."""
        try:
            del self.unsent[: self.end.send(self.unsent)]
        except BlockingIOError:
            return
        except OSError:  # it is gone, which the next look finds out
            self.unsent.clear()


class _Asked(NamedTuple):
    """Rows that a worker wants scored."""

    peer: _Peer
    number: int
    rows: Rows


class Runner:
    """Calls one model for all who ask, until it is told to retire and nobody asks any more.

    Only where it `shares` calls do rows of several requests go into one, at most `max_batch_rows`. What raises is then
    repeated in halves of its requests, unless `repeat` is false.
    """

    def __init__(
        self, model: Model, control: Channel, vitals: RunnerVitals, *, shares: bool, max_batch_rows: int, repeat: bool
    ) -> None:
        self._model = model
        self._control = control
        self._vitals = vitals
        self._most = max_batch_rows if shares else 0
        self._repeat = repeat
        self._asked: deque[_Asked] = deque()
        self._peers: set[_Peer] = set()
        self._retiring = False
        self._lives = True
        self._looks = selectors.DefaultSelector()
        self._looks.register(control.fileno(), selectors.EVENT_READ, self._heed)

    def run(self) -> None:
        """Answer to the end. Raises OutOfMemory."""
        while self._lives and not (self._retiring and not self._peers):
            for key, events in self._looks.select(0 if self._asked else None):
                look: Callable[[int], None] = key.data
                look(events)
            if self._asked:
                self._call(self._next_call())

    def _heed(self, _events: int) -> None:
        """Do what the supervisor says; without one, end."""
        try:
            while True:
                word, _, descriptors = self._control.receive()
                if word is Word.PEER:
                    for descriptor in descriptors:
                        self._meet(_Peer(socket.socket(fileno=descriptor)))
                else:
                    self._retiring = True
        except BlockingIOError:
            return
        except EOFError:
            self._lives = False

    def _meet(self, peer: _Peer) -> None:
        self._peers.add(peer)
        self._looks.register(peer.end, selectors.EVENT_READ, lambda events: self._look(peer, events))

    def _look(self, peer: _Peer, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            peer.flush()
            self._watch(peer)
        if events & selectors.EVENT_READ:
            self._read(peer)

    def _watch(self, peer: _Peer) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        if self._looks.get_key(peer.end).events != events:
            self._looks.modify(peer.end, events, lambda events: self._look(peer, events))

    def _read(self, peer: _Peer) -> None:
        try:
            while data := peer.end.recv(_AT_ONCE):
                for frame in peer.inbox.feed(data):
                    self._take(peer, frame)
        except BlockingIOError:
            return
        except OSError:  # it is gone
            pass
        self._looks.unregister(peer.end)
        peer.end.close()
        self._peers.discard(peer)
        self._asked = deque(asked for asked in self._asked if asked.peer is not peer)

    def _take(self, peer: _Peer, frame: Frame) -> None:
        if frame.word is frames.Word.ASK:
            self._asked.append(_Asked(peer, frame.number, frames.asked(frame.payload)))
            return
        dropped = [asked for asked in self._asked if (asked.peer, asked.number) == (peer, frame.number)]
        for asked in dropped:
            self._asked.remove(asked)
            self._send(peer, frames.fail(frame.number, Failure("dropped")))

    def _send(self, peer: _Peer, frame: bytes) -> None:
        peer.send(frame)
        if peer.unsent and peer in self._peers:
            self._watch(peer)

    # Calls

    def _next_call(self) -> list[_Asked]:
        """What has queued, as far as it goes into one call; at least one request."""
        call = [self._asked.popleft()]
        rows = len(call[0].rows)
        while self._asked and rows + len(self._asked[0].rows) <= self._most:
            rows += len(self._asked[0].rows)
            call.append(self._asked.popleft())
        return call

    def _call(self, call: list[_Asked]) -> None:
        rows = sum(len(asked.rows) for asked in call)
        for peer, of in groupby(sorted(call, key=lambda asked: id(asked.peer)), key=lambda asked: asked.peer):
            self._send(peer, frames.announce(rows, [asked.number for asked in of]))
        vitals, began = self._vitals, monotonic()
        try:
            self._score(call)
        finally:
            vitals.began = 0.0
            vitals.calls += 1
            vitals.rows += rows
            vitals.busy += monotonic() - began

    def _score(self, call: list[_Asked]) -> None:
        """Answer all requests of a call; those that raise together are asked in halves until only bad ones fail."""
        repeats = 2 * ceil(log2(len(call))) + 2 if self._repeat else 0
        parts = [call]
        while parts:
            part = parts.pop()
            try:
                answers = self._answers(part)
            except BaseException as exc:  # a model may raise SystemExit, too
                if is_of_memory(exc):
                    raise OutOfMemory(_told(exc)) from exc
                if len(part) > 1 and repeats > 1:
                    repeats -= 2
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                else:
                    failure = _failure(exc) if len(part) == 1 else Failure(_told(exc))  # whose row it is, nobody knows
                    self._send_all(part, [frames.fail(asked.number, failure) for asked in part])
            else:
                self._send_all(part, answers)

    def _send_all(self, part: Sequence[_Asked], answers: Sequence[bytes]) -> None:
        """Send each worker all its answers at once."""
        of: dict[_Peer, list[bytes]] = {}
        for asked, answer in zip(part, answers, strict=True):
            of.setdefault(asked.peer, []).append(answer)
        for peer, frames_of_peer in of.items():
            self._send(peer, b"".join(frames_of_peer))

    def _answers(self, part: Sequence[_Asked]) -> list[bytes]:
        """The answers to requests that are asked for together. Raises whatever the model does."""
        rows = part[0].rows if len(part) == 1 else _joined([asked.rows for asked in part])
        self._vitals.began = monotonic()  # of each repeat, for none may take too long
        outputs = self._model.predict(Batch(self._model.signature, rows))
        self._check(outputs, len(rows))
        answers = []
        start = 0
        for asked in part:
            end = start + len(asked.rows)
            answers.append(frames.answer(asked.number, tuple(values[start:end] for values in outputs)))
            start = end
        return answers

    def _check(self, outputs: Outputs, count: int) -> None:
        """Raises TypeError for what the signature does not say, ValueError for another number of outputs."""
        for column, values in zip(self._model.signature.outputs, outputs, strict=True):
            shape = (count,) if column.width is None else (count, column.width)
            if values.shape != shape or values.dtype != DTYPES[column.kind]:
                raise TypeError(f"expected {column.name} of {column.kind} and {shape}, got another array")


def _joined(parts: Sequence[Rows]) -> Rows:
    if any(isinstance(rows, np.ndarray) for rows in parts):
        together: Rows = np.concatenate([np.asarray(rows) for rows in parts])
        return together
    return [row for rows in parts for row in rows]


def _failure(exc: BaseException) -> Failure:
    if isinstance(exc, FeatureTooLarge):
        return Failure(_told(exc), exc.most, exc.column, exc.row)
    return Failure(_told(exc))


def _told(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exc))
    except Exception:  # noqa: BLE001  # an error of the model's own, which cannot even be told
        return type(exc).__name__

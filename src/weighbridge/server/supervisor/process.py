"""A worker as its supervisor sees it: a process, a channel to it, and the memory that they share."""

import asyncio
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import NamedTuple

from weighbridge.adapters.process_metrics import WorkerState, WorkerStatus
from weighbridge.adapters.system.lending import lent
from weighbridge.adapters.system.processes import watch
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.catalogue import Catalogue
from weighbridge.server.channel import KEPT, MOST_DESCRIPTORS, Channel, Message, NoRoom, Word
from weighbridge.server.runner.hosted import Hosted
from weighbridge.server.scoreboard import Scoreboard
from weighbridge.settings import PREFIX, Settings

TICK_SECONDS = 0.25
_SILENT_SECONDS = 1.0
_LIVED_SECONDS = 1.0
_RETRY_SECONDS = 0.05


class Ending(NamedTuple):
    """How a worker ended: the kind, for the metrics, and in words."""

    kind: str
    words: str


class Batch(NamedTuple):
    """Connections, by their descriptors; `kept` where they have had a request."""

    connections: Sequence[int]
    kept: bool


class WorkerProcess:
    """A process that answers requests, run by `command` with the descriptor of its channel after it.

    What was decided while it started it has `missed`: a version of each of these models is yet to be served by it.
    Raises OSError when there is no process to be had.
    """

    def __init__(
        self, command: Sequence[str], settings: Settings, catalogue: Catalogue, *, slot: int, most_connections: int
    ) -> None:
        self.channel, self._far_end = Channel.pair()
        try:
            with lent(catalogue) as written:
                self.scoreboard = Scoreboard.create()
                self.channel.send(Word.START, settings.snapshot(), [self.scoreboard.descriptor, written])
            os.close(self.scoreboard.descriptor)  # the mapping stays
            self._process, self.pidfd = _start(
                [*command, str(self._far_end.fileno())],
                self._far_end.fileno(),
                _environment(),
            )
        except OSError:
            self.channel.close()
            self._far_end.close()
            raise
        self.missed: dict[str, Hosted] = {}
        self.slot = slot
        self.runners = 0  # that it has a descriptor for
        self.pid = self._process.pid
        self.state = WorkerState.STARTING
        self._began = monotonic()
        self.came_up: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self._most_connections = most_connections
        self._ready_at = float("inf")
        self._verdict: str | None = None
        self._refusal: str | None = None
        self.ending: Ending | None = None
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._untold: deque[tuple[Word, str, list[int]]] = deque()
        self._numbers = count(1)
        self._handed = 0
        self._at_once = MOST_DESCRIPTORS
        self._beats = 0
        self._silent_ticks = 0

    @property
    def connections(self) -> int:
        """How many it holds, those on their way to it included."""
        return self._handed - self.scoreboard.vitals.closed

    @property
    def age(self) -> float:
        """For how many seconds it has been there."""
        return monotonic() - self._began

    @property
    def silent_seconds(self) -> float:
        """For how long it has given no sign of life."""
        return self._silent_ticks * TICK_SECONDS

    @property
    def is_silent(self) -> bool:
        """Whether it should be given nothing before it gives a sign of life."""
        return self.silent_seconds >= _SILENT_SECONDS

    @property
    def is_full(self) -> bool:
        """Whether it has no descriptors for connections that it was sent, and waits for them to be taken back."""
        return bool(self.scoreboard.vitals.full)

    @property
    def room(self) -> int:
        """How many connections it should be given."""
        return 0 if self.is_silent else self.capacity

    @property
    def capacity(self) -> int:
        """How many it can hold besides those that it has, even if it gives no sign of life at the moment."""
        if self.state is not WorkerState.READY or self.is_full:
            return 0
        return self._most_connections - self.runners - self.connections

    @property
    def has_lived(self) -> bool:
        """Whether it was ready for long enough to be worth replacing at once."""
        return monotonic() - self._ready_at > _LIVED_SECONDS

    def ready(self) -> None:
        """It answers from now on."""
        self.state = WorkerState.READY
        self._silent_ticks = 0
        self._ready_at = monotonic()
        self.came_up.set_result(True)

    def take(self, connections: Sequence[int], *, kept: bool = False) -> int:
        """Hand over the first of these connections; how many it was, for the worker may not be reached."""
        for start in range(0, len(connections), self._at_once):
            descriptors = connections[start : start + self._at_once]
            number = next(self._numbers)
            if not self.channel.send(Word.CONNECTIONS, f"{number} {KEPT}" if kept else str(number), descriptors):
                return start
            self._handed += len(descriptors)
        return len(connections)

    def tell(self, word: Word, text: str, descriptors: Sequence[int] = ()) -> None:
        """Have it know something, in the order of what it is told, once there is room for the messages."""
        if self._untold or not self.channel.send(word, text, descriptors):
            with suppress(OSError):  # without descriptors it is not to be had
                self._untold.append((word, text, [os.dup(descriptor) for descriptor in descriptors]))
                if len(self._untold) == 1:
                    asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._tell_on)

    def _tell_on(self) -> None:
        """Tell it what found no room, as far as there is some now; to one that is gone there is nothing to tell."""
        while self._untold:
            word, text, descriptors = self._untold[0]
            if not self.gone.is_set() and not self.channel.send(word, text, descriptors):
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._tell_on)
                return
            self._untold.popleft()
            for descriptor in descriptors:
                os.close(descriptor)

    async def ask(self, word: Word, text: str = "", descriptors: Sequence[int] = ()) -> None:
        """Have it do what a word says; returns when it has. Raises ModelRefused when it cannot, or ends."""
        if self.ending is not None:
            raise ModelRefused(f"a worker {self.ending.words}")
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            while not answer.done() and not self.channel.send(word, f"{number} {text}", descriptors):
                await asyncio.wait({answer}, timeout=_RETRY_SECONDS)  # it has much to read
            await answer
        finally:
            del self._asked[number], answer  # an error knows this frame, and the answer the error

    def answered(self, word: Word, text: str) -> None:
        """Take its answer to what it was asked for, or its reason not to start."""
        number, _, reason = text.partition(" ")
        answer = self._asked.get(int(number))
        if number == "0":
            self._refusal = f"could not serve its models: {reason}"
        elif answer is None or answer.done():  # nobody waits for it any more
            return
        elif word is Word.DONE:
            answer.set_result(None)
        else:
            answer.set_exception(ModelRefused(reason))

    def look(self) -> None:
        """Look for a sign of life; called at every tick, so that time in which nobody looked does not count."""
        beats = self.scoreboard.vitals.beats
        self._silent_ticks = 0 if beats != self._beats else self._silent_ticks + 1
        self._beats = beats

    def never_received(self) -> list[Batch]:
        """The connections that it was sent but has not received, taken back; all else goes on waiting for it."""
        taken_back: list[Batch] = []
        others: list[Message] = []
        with suppress(BlockingIOError, NoRoom):
            while True:
                word, text, descriptors = self._far_end.receive()
                if word is Word.CONNECTIONS:
                    taken_back.append(self._back(text, descriptors))
                else:
                    others.append((word, text, descriptors))
        for word, text, descriptors in others:
            self.channel.send(word, text, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        return taken_back

    def no_room_for(self) -> list[Batch]:
        """The connections that wait for room in it, taken back; it comes to no word behind them otherwise.

        From now on each is sent by itself, so that it gets as many as it has room for.
        """
        self._at_once = 1
        taken_back: list[Batch] = []
        with suppress(BlockingIOError, NoRoom):
            while self._far_end.next_word is Word.CONNECTIONS:
                _, text, descriptors = self._far_end.receive()
                taken_back.append(self._back(text, descriptors))
        return taken_back

    def _back(self, text: str, connections: Sequence[int]) -> Batch:
        self._handed -= len(connections)
        return Batch(connections, KEPT in text)

    def read_on(self) -> None:
        """Let it try whether it has room by now."""
        self.scoreboard.vitals.full = 0

    def retire(self, word: Word) -> None:
        """Have it end in its own time."""
        self.state = WorkerState.RETIRING
        self.channel.send(word)

    def status(self, slot: int) -> WorkerStatus:
        """What the metrics say of it."""
        vitals = self.scoreboard.vitals
        return WorkerStatus(slot, self.pid, self.state, self.connections, vitals.in_flight, vitals.buffered_bytes)

    def kill(self, verdict: str) -> None:
        """End it at once; the verdict is how it ended."""
        self._verdict = self._verdict or verdict
        self._process.kill()

    def ended(self) -> Ending:
        """How it ended, once it has; releases all that is held of it but its memory."""
        code = self._process.wait()
        self.channel.close()
        self._far_end.close()
        os.close(self.pidfd)
        if not self.came_up.done():
            self.came_up.set_result(False)
        self.gone.set()
        self.ending = self._ending(code)
        for number in self._asked:
            self.answered(Word.FAILED, f"{number} a worker {self.ending.words}")
        return self.ending

    def _ending(self, code: int) -> Ending:
        if self._verdict is not None:
            return Ending("hung", self._verdict)
        if code < 0:
            return Ending("killed", f"was killed by {signal.Signals(-code).name}")
        return Ending("exited", f"ended with code {code}" if self._refusal is None else self._refusal)


def _environment() -> Mapping[str, str]:
    """That of this process, less the token of the admin listener: a worker runs models, and needs none."""
    return {name: value for name, value in os.environ.items() if name.upper() != f"{PREFIX}ADMIN_TOKEN"}


def _start(
    command: Sequence[str], descriptor: int, environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], int]:
    """A process that inherits the descriptor, and one by which its end is seen. Raises OSError."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[descriptor], env=environment)
    try:
        return process, watch(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise

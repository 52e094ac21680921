"""Runners and the nurseries they come from, as the process that starts them sees them."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import count
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, NamedTuple

from weighbridge.adapters.manifest import CODE
from weighbridge.adapters.system import processes
from weighbridge.adapters.system.lending import lent
from weighbridge.adapters.system.memory import unnamed
from weighbridge.domain.errors import ModelRefused
from weighbridge.server.channel import Channel, NoRoom, Word
from weighbridge.server.runner.orders import Order, Report
from weighbridge.server.runner.vitals import SharedVitals
from weighbridge.settings import Settings

# Without writing bytecode: a process that is killed may leave a module cut off, which the next would take for whole.
# Without importing from the working directory, in which a model has nothing to read.
NURSERY = (sys.executable, "-B", "-P", "-m", "weighbridge.entrypoints.nursery")

_SINGLE_THREADED = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_VARIABLES = ("LANG", "LANGUAGE", "LD_LIBRARY_PATH", "PATH", "TZ", "VIRTUAL_ENV")
_FAMILIES = ("CUDA_", "GOMP_", "KMP_", "LC_", "MKL_", "NVIDIA_", "OMP_", "OPENBLAS_", "PYTHON")
_MOST_SAID = 16 * 1024
_MOST_UNHEARD = 16  # messages of a runner that has ended
_WITH_NURSERY = "ended with the process that it came from"
_SERIALS = count(1)  # of runners: a place may have had one before
_UNHEARD_OF = "told of itself what no runner does"
_OF_MEMORY = ("MemoryError", "bad_alloc", "Memory allocation", "out of memory")


class Ending(NamedTuple):
    """How a runner ended: in words, whether for want of memory, and whether only since its nursery has ended."""

    words: str
    of_memory: bool
    with_nursery: bool = False


class RunnerProcess:
    """A runner, which opens the version of an order and then answers. Raises OSError when there is none to be had."""

    def __init__(self, nursery: "Nursery", order: Order, instance: int) -> None:
        self.serial = next(_SERIALS)
        self.instance = instance
        self.pid: int | None = None
        self.report: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._order = order
        self._began = monotonic()
        self._pidfd: int | None = None
        self._verdict: str | None = None
        self._condemned = False
        self._told: tuple[str, str] | None = None
        self._scratch: TemporaryDirectory[str] | None = None
        with ExitStack() as held, ExitStack() as passed:  # what is held goes if anything fails
            self._errors = unnamed("errors")
            held.callback(os.close, self._errors)
            self._control, theirs = Channel.pair()
            held.callback(self._control.close)
            passed.callback(theirs.close)
            shared = SharedVitals.create()
            passed.callback(os.close, shared.descriptor)
            if nursery.runtime in CODE:
                self._scratch = TemporaryDirectory(prefix="weighbridge-", ignore_cleanup_errors=True)
                order = replace(order, scratch=self._scratch.name)
                held.callback(self._scratch.cleanup)
            lent_order = passed.enter_context(lent(order))
            nursery.fork(self, [theirs.fileno(), lent_order, shared.descriptor, self._errors])
            held.pop_all()
        self.vitals = shared.vitals
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._heed)

    @property
    def age(self) -> float:
        """For how many seconds it has been there."""
        return monotonic() - self._began

    @property
    def busy_seconds(self) -> float:
        """For how long it has been in the call that goes on; 0 between calls, or while it opens its version."""
        began = self.vitals.began
        return monotonic() - began if began else 0.0

    @property
    def counts(self) -> dict[str, Any]:
        """`calls`, `rows` in them, and `busy_seconds` in them."""
        return {"calls": self.vitals.calls, "rows": self.vitals.rows, "busy_seconds": round(self.vitals.busy, 6)}

    def meet(self) -> socket.socket | None:
        """The end of a new connection to it; None where there are no descriptors, or it is gone."""
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            return None
        with theirs:
            sent = self._control.send(Word.PEER, "", [theirs.fileno()])
        if not sent:
            ours.close()
            return None
        return ours

    def retire(self) -> None:
        """Have it end once nobody asks any more."""
        self._control.send(Word.RETIRE)

    def kill(self, verdict: str | None = None) -> None:
        """End it at once; the verdict is how it ended."""
        self._verdict = self._verdict or verdict
        self._condemned = True
        with suppress(ProcessLookupError):
            if self._pidfd is not None:
                processes.kill(self._pidfd)
            elif self.pid is not None and not self.ended.done():
                os.kill(self.pid, signal.SIGKILL)

    def born(self, pid: int, pidfd: int | None) -> None:
        """It has a process, and a descriptor of that unless there was no room for one."""
        self.pid, self._pidfd = pid, pidfd
        if self._condemned:
            self.kill()

    def kill_group(self) -> None:
        """End what it has started; for a runner whose nursery, which sees to that, has ended."""
        if self.pid is not None:
            processes.kill_group(self.pid)

    def buried(self, code: int) -> None:
        """It has come to its end; releases all that is held of it."""
        for _ in range(_MOST_UNHEARD):
            if not self._heed():
                break
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._control.fileno())
        self._control.close()
        last_error = _last_line(self._errors)
        os.close(self._errors)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._scratch is not None:
            loop.run_in_executor(None, self._scratch.cleanup)
        ending = self._ending(code, last_error)
        if not self.report.done():
            self.report.set_exception(ModelRefused(self._refusal(ending, last_error)))
            self.report.exception()  # nobody may be waiting for it
        self.ended.set_result(ending)

    def _heed(self) -> bool:
        """Take one thing that it tells of itself; False if there is none. One at a time: it may never stop to tell."""
        try:
            message = self._control.receive()
        except BlockingIOError:
            return False
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            return False
        except ValueError:
            self.kill(_UNHEARD_OF)
        except NoRoom:  # it stays there: whatever follows it is not heard
            self.kill(_UNHEARD_OF)
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            return False
        else:
            self._hear(*message)
        return True

    def _hear(self, word: Word, text: str, descriptors: Sequence[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        if word is Word.FAILED:
            kind, _, reason = text.partition(" ")
            self._told = kind, reason
        elif word is Word.OPENED and not self.report.done():
            try:
                self.report.set_result(Report.read(text))
            except ValueError:
                self.kill(_UNHEARD_OF)

    def _ending(self, code: int, last_error: str) -> Ending:
        of_memory = (self._told or ("", ""))[0] == "memory" or any(sign in last_error for sign in _OF_MEMORY)
        if self._verdict is not None:
            words = self._verdict
        elif of_memory:
            words = f"ran out of memory, {self._order.memory} bytes"
        elif code < 0:
            words = f"was killed by signal {-code} ({signal.strsignal(-code)})"
        else:
            words = f"ended with code {code}"
        return Ending(words, of_memory, words == _WITH_NURSERY)

    def _refusal(self, ending: Ending, last_error: str) -> str:
        """Why it did not open its version."""
        path = f"models/{self._order.name}/{self._order.version}"
        if ending.of_memory:
            reason = (self._told or ("", last_error))[1]
            limit = f"{self._order.memory} bytes of memory (WEIGHBRIDGE_LOAD_MEMORY_BYTES)"
            return f"{path}: opening needs more than {limit}: {reason}"
        if self._told is not None:
            return self._told[1]
        words = f"{ending.words}: {last_error}" if last_error else ending.words
        return f"{path}: the process that opened it {words}"


class Nursery:
    """The process that runners of one runtime are forked from. Raises OSError when there is none to be had."""

    def __init__(self, runtime: str, settings: Settings, command: Sequence[str] = NURSERY) -> None:
        self.runtime = runtime
        self.on_end: Callable[[], None] = lambda: None
        self._runners: dict[int, RunnerProcess] = {}
        self._numbers = count(1)
        self._idle_since = monotonic()
        self._channel, far_end = Channel.pair()
        self._channel.send(Word.START, f"{runtime} {settings.snapshot()}")
        descriptor = far_end.fileno()
        try:
            self._process = subprocess.Popen(
                [*command, str(descriptor), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[descriptor],
                env=_environment(),
            )
        except OSError:
            self._channel.close()
            raise
        finally:
            far_end.close()
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._heed)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def lives(self) -> bool:
        """Whether runners can be had of it."""
        return self._process.returncode is None

    @property
    def idle_seconds(self) -> float:
        """For how long it has had no runner."""
        return 0.0 if self._runners else monotonic() - self._idle_since

    def fork(self, runner: RunnerProcess, descriptors: Sequence[int]) -> None:
        """Have a runner forked that starts with these descriptors. Raises OSError."""
        number = next(self._numbers)
        if not self._channel.send(Word.FORK, str(number), descriptors):
            raise OSError("the process that runners come from cannot be reached")
        self._runners[number] = runner

    def close(self) -> None:
        """End it, and its runners with it."""
        if self.lives:
            self._process.kill()
            self._end()

    def _heed(self) -> None:
        try:
            while True:
                word, text, descriptors = self._channel.receive()
                number, _, about = text.partition(" ")
                if word is Word.FORKED:
                    self._runners[int(number)].born(int(about), next(iter(descriptors), None))
                elif word is Word.ENDED:
                    self._idle_since = monotonic()
                    self._runners.pop(int(number)).buried(int(about))
        except BlockingIOError:
            return
        except EOFError:
            self._process.kill()
            self._end()

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._channel.fileno())
        self._channel.close()
        self._process.wait()
        runners, self._runners = self._runners, {}
        for runner in runners.values():  # each is killed when its parent ends
            runner.kill(_WITH_NURSERY)
            runner.kill_group()
            runner.buried(-signal.SIGKILL)
        self.on_end()


def _environment() -> Mapping[str, str]:
    """The variables that interpreters and libraries need: any other may hold a secret."""
    kept = {name: value for name, value in os.environ.items() if name in _VARIABLES or name.startswith(_FAMILIES)}
    return kept | _SINGLE_THREADED


def _last_line(descriptor: int) -> str:
    """The last line of what a process wrote."""
    start = max(0, os.fstat(descriptor).st_size - _MOST_SAID)
    lines = os.pread(descriptor, _MOST_SAID, start).decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")

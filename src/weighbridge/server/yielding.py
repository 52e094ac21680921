"""How what opens a version gives way to what answers requests."""

import asyncio
import ctypes
import errno
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from itertools import cycle
from pathlib import Path
from typing import TypeVar

ResultT = TypeVar("ResultT")

_NICEST = 19
_LOOK_SECONDS = 0.05
_IDLE = 0.1  # of all cores
_IDLE_TIMES, _TIMES = slice(3, 5), 8  # of /proc/stat: those of idling, of waiting for a disk; the last count twice
_SLICE_NANOSECONDS = 100_000_000  # the longest that Linux takes
_SYSTEM_CALLS = {
    "x86_64": {"sched_setattr": 314, "timer_create": 222, "timer_settime": 223, "timer_delete": 226},
    "aarch64": {"sched_setattr": 274, "timer_create": 107, "timer_settime": 110, "timer_delete": 111},
}
"""Linux' numbers of those that not every C library has a name for."""
STAND_BACK = signal.SIGRTMAX
"""The signal that is taken for it."""
_STAND_BACK_NANOSECONDS = 1_000_000
_SIGEV_THREAD_ID = 4  # of Linux' signal.h
_EVENT = struct.Struct("8xiii44x")  # sigevent of the same
_TIMES_OF_TIMER = struct.Struct("qqqq")  # itimerspec of time.h: how often, and when first, in seconds and nanoseconds
_ATTRIBUTES = struct.Struct("IIQiIQQQ")  # sched_attr of Linux' sched/types.h, in its first version


def wake_gently() -> None:
    """Have the calling thread interrupt no other when it wakes: on a busy core it runs when the others have run.

    So the supervisor finds several connections to accept, and hands them over together, instead of one at a time while
    the worker on its core waits. What it starts inherits this.
    """
    _change_policy(os.SCHED_OTHER, os.SCHED_BATCH)


def wake_at_once() -> None:
    """Have the calling thread run as soon as usual when it wakes, whatever it has inherited."""
    _change_policy(os.SCHED_BATCH, os.SCHED_OTHER)


def _change_policy(before: int, wanted: int) -> None:
    """Any other policy is the operator's choice, and stays."""
    with suppress(OSError):  # where a sandbox forbids it, it goes without
        if os.sched_getscheduler(0) == before:
            os.sched_setscheduler(0, wanted, os.sched_param(0))


async def aside(function: Callable[[], ResultT]) -> ResultT:
    """What a function returns, or raises, in a thread that gives way. Raises OSError when there is none to be had.

    The thread is its own, and may outlive a process that ends: one that never comes to an end holds up nothing.
    """
    return await asyncio.wrap_future(_begun(function))


def _begun(function: Callable[[], ResultT]) -> Future[ResultT]:
    future: Future[ResultT] = Future()
    future.set_running_or_notify_cancel()  # so it cannot be cancelled: whoever waits for it just goes away
    try:
        threading.Thread(target=_run, args=(function, future), daemon=True).start()
    except RuntimeError as exc:
        raise OSError(errno.EAGAIN, str(exc)) from exc
    return future


def _run(function: Callable[[], ResultT], future: Future[ResultT]) -> None:
    try:
        with giving_way():
            returned = function()
        future.set_result(returned)
    except Exception as exc:
        future.set_exception(exc)
    finally:
        # An error knows this frame, and the future the error: whatever the function had would stay until the collector
        # of garbage comes by.
        del function, future


@contextmanager
def giving_way() -> Iterator[None]:
    """Have the calling thread run when the other threads of the service leave it a core; to begin takes 50 ms.

    Niceness says how much of a core a thread gets when others want it: it is a seventieth, and all that others leave.
    Where they leave nothing, an opening would take minutes, and nobody could get rid of a version that keeps all cores
    busy: there it has its share.

    Niceness does not say how soon another thread that wakes is let in: a slice of some milliseconds is run to its end.
    From Linux 6.12 on, one whose slices are shorter is let in at once. `SCHED_BATCH` does the reverse: this thread
    interrupts no other when it wakes. And where another one wakes just as it is this thread's turn by its niceness,
    Linux looks again at the next tick, 4 ms later: so it stands back each millisecond.
    """
    if os.sched_getscheduler(0) == os.SCHED_IDLE:  # the operator put all of the service there: nothing is below
        yield
        return
    is_idle = _is_idle()
    niceness = _NICEST if is_idle else os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, niceness)  # of Linux' threads each has its own
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_BATCH, 0, niceness, 0, _SLICE_NANOSECONDS, 0, 0)
    _call("sched_setattr", 0, attributes, 0)
    with _standing_back() if is_idle else nullcontext():
        yield


@contextmanager
def _standing_back() -> Iterator[None]:
    """Have the calling thread let those run that wait for its core, each millisecond, in whatever library it is.

    The C library's `sched_yield` itself is the handler of the signals that a timer sends to this thread: it takes no
    lock and no memory. What is interrupted goes on, for `signal` asks for that.
    """
    libc = ctypes.CDLL(None)
    libc.signal(STAND_BACK, ctypes.cast(libc.sched_yield, ctypes.c_void_p))
    event = _EVENT.pack(STAND_BACK, _SIGEV_THREAD_ID, threading.get_native_id())
    timer = ctypes.c_int()
    if _call("timer_create", time.CLOCK_MONOTONIC, event, ctypes.byref(timer)) < 0:
        yield  # a sandbox forbids it, or too many signals are waited for already: it goes without
        return
    _call("timer_settime", timer, 0, _TIMES_OF_TIMER.pack(0, _STAND_BACK_NANOSECONDS, 0, _STAND_BACK_NANOSECONDS), None)
    try:
        yield
    finally:
        _call("timer_delete", timer)


def keep_apart(processes: Sequence[int]) -> list[int]:
    """Have each of these processes run on a core of its own from now on, as far as there are enough; who does so.

    Linux has a thread wake on the core of whoever wakes it, unless its own is idle. A core on which a version is opened
    never is, however nice the thread that opens it: so all that answers gathers on the others, and waits there for tens
    of milliseconds. A process keeps off the cores of the others, and no more: it may use all those that are left. One
    for which the operator has chosen other cores than those of the calling thread stays there.
    """
    cores = os.sched_getaffinity(0)
    movable = [process for process in processes if _affinity(process) == cores]
    own = dict(zip(movable, cycle(sorted(cores)), strict=False))
    for process, core in own.items():
        _move(process, cores.difference(own.values()) | {core})
    return movable


def let_mingle(processes: Iterable[int]) -> None:
    """Have these processes run wherever the calling thread may, with the threads that they have started meanwhile."""
    cores = os.sched_getaffinity(0)
    for process in processes:
        _move(process, cores)
        with suppress(OSError):  # it has ended, or no descriptor is left to look with
            for thread in Path(f"/proc/{process}/task").iterdir():
                _move(int(thread.name), cores)


def _affinity(process: int) -> set[int]:
    """The cores of its first thread; none for a process that is gone."""
    try:
        return os.sched_getaffinity(process)
    except OSError:
        return set()


def _move(thread: int, cores: set[int]) -> None:
    with suppress(OSError):  # it has ended, or a sandbox forbids it
        os.sched_setaffinity(thread, cores)


def _call(name: str, *arguments: object) -> int:
    """What a system call returns; less than 0 where it failed, or is not known."""
    number = _SYSTEM_CALLS.get(os.uname().machine, {}).get(name, -1)
    returned: int = ctypes.CDLL(None).syscall(number, *arguments)
    return returned


def _is_idle() -> bool:
    """Whether the machine has anything left; False where no descriptor is left to look with."""
    try:
        before = _spent()
        time.sleep(_LOOK_SECONDS)
        spent = [after - then for after, then in zip(_spent(), before, strict=True)]
    except OSError:
        return False
    return sum(spent[_IDLE_TIMES]) > _IDLE * sum(spent)


def _spent() -> list[int]:
    """What all cores together have done, in ticks, by kinds."""
    with Path("/proc/stat").open(encoding="ascii") as file:
        return list(map(int, file.readline().split()[1 : 1 + _TIMES]))

"""Serving has priority over loading: what opens a version runs at low priority."""

import asyncio
import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

ResultT = TypeVar("ResultT")

_NICEST = 19
_LOOK_SECONDS = 0.05
_SWITCH_SECONDS = 0.0005  # that the event loop waits for the interpreter; by default it is ten times as long
_IDLE = 0.1  # of all cores
_IDLE_TIMES, _TIMES = slice(3, 5), 8  # of /proc/stat: those of idling, of waiting for a disk; the last count twice


def wake_gently() -> None:
    """Have the calling thread interrupt no other when it wakes: on a busy core it runs when the others have run.

    So the supervisor finds several connections to accept, and hands them over together, instead of one at a time while
    the worker on its core waits. What it starts inherits this.
    """
    _change_policy("SCHED_OTHER", "SCHED_BATCH")


def wake_at_once() -> None:
    """Have the calling thread run as soon as usual when it wakes, whatever it has inherited."""
    _change_policy("SCHED_BATCH", "SCHED_OTHER")


def _change_policy(before: str, wanted: str) -> None:
    """Any other policy is the operator's choice, and stays."""
    if _has_policy(before):
        with suppress(AttributeError, OSError):  # a system may not have the other one, a sandbox may forbid it
            os.sched_setscheduler(0, getattr(os, wanted), os.sched_param(0))


def _has_policy(name: str) -> bool:
    """Whether the calling thread is known to be scheduled so."""
    with suppress(AttributeError, OSError):  # macOS has no such calls, and musl's say ENOSYS
        policy: int = getattr(os, name)
        return os.sched_getscheduler(0) == policy
    return False


async def aside(function: Callable[[], ResultT]) -> ResultT:
    """What a function returns, or raises, in a thread that gives way. Raises OSError when there is none to be had.

    The thread is its own, and may outlive a process that ends: one that never comes to an end holds up nothing.
    """
    return await asyncio.wrap_future(_begun(function))


def _begun(function: Callable[[], ResultT]) -> Future[ResultT]:
    sys.setswitchinterval(_SWITCH_SECONDS)
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

    Of Linux' threads each has a niceness of its own: the nicest gets a seventieth of a core that others want, and all
    that they leave. Where they leave nothing, an opening would take minutes, and nobody could get rid of a version that
    keeps all cores busy: there it has its share. With `SCHED_BATCH` it interrupts no other thread when it wakes.
    """
    if _has_policy("SCHED_IDLE"):  # the operator put all of the service there: nothing is below
        yield
        return
    if _is_idle():  # known only on Linux: elsewhere the niceness would be that of all threads
        os.setpriority(os.PRIO_PROCESS, 0, _NICEST)
    _change_policy("SCHED_OTHER", "SCHED_BATCH")
    yield


def _is_idle() -> bool:
    """Whether the machine has anything left; False where that cannot be looked at."""
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

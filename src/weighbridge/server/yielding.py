"""How what opens a version gives way to what answers requests."""

import ctypes
import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from time import sleep

_NICEST = 19
_LOOK_SECONDS = 0.05
_IDLE = 0.1  # of all cores
_IDLE_TIMES, _TIMES = slice(3, 5), 8  # of /proc/stat: those of idling, of waiting for a disk; the last count twice
_SLICE_NANOSECONDS = 100_000_000  # the longest that Linux takes
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # Linux' numbers of a system call that few C libraries have a name for
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


def give_way() -> None:
    """Have the calling thread run when the other threads of the service leave it a core; takes 50 milliseconds.

    Niceness says how much of a core a thread gets when others want it, and Linux has them wait for that, a tick of
    some milliseconds at a time: it is a seventieth of a core, and all that others leave. Where they leave nothing, an
    opening would take minutes, and nobody could get rid of a version that keeps all cores busy: there it has its share.

    Niceness does not say how soon another thread that wakes is let in: a slice of some milliseconds is run to its end.
    From Linux 6.12 on, one whose slices are shorter is let in at once. `SCHED_BATCH` does the reverse: this thread
    interrupts no other when it wakes.
    """
    if os.sched_getscheduler(0) == os.SCHED_IDLE:  # the operator put all of the service there: nothing is below
        return
    niceness = _NICEST if _is_idle() else os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, niceness)  # of Linux' threads each has its own
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_BATCH, 0, niceness, 0, _SLICE_NANOSECONDS, 0, 0)
    ctypes.CDLL(None).syscall(_SCHED_SETATTR.get(os.uname().machine, -1), 0, attributes, 0)


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


def _is_idle() -> bool:
    """Whether the machine has anything left."""
    before = _spent()
    sleep(_LOOK_SECONDS)
    spent = [after - then for after, then in zip(_spent(), before, strict=True)]
    return sum(spent[_IDLE_TIMES]) > _IDLE * sum(spent)


def _spent() -> list[int]:
    """What all cores together have done, in ticks, by kinds."""
    with Path("/proc/stat").open(encoding="ascii") as file:
        return list(map(int, file.readline().split()[1 : 1 + _TIMES]))

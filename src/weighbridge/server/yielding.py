"""How a thread gives way to what answers requests."""

import ctypes
import os
import struct
from contextlib import suppress

_NICER, _NICEST = 10, 19
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
    """Have the calling thread run only when the other threads of the service leave it a core.

    Niceness says how much of a core a thread gets, but not how soon another one that wakes is let in: a slice of some
    milliseconds is run to its end. From Linux 6.12 on, a thread whose slices are shorter is let in at once.
    """
    niceness = min(_NICEST, os.getpriority(os.PRIO_PROCESS, 0) + _NICER)
    os.setpriority(os.PRIO_PROCESS, 0, niceness)  # of Linux' threads each has its own
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, niceness, 0, _SLICE_NANOSECONDS, 0, 0)
    ctypes.CDLL(None).syscall(_SCHED_SETATTR.get(os.uname().machine, -1), 0, attributes, 0)

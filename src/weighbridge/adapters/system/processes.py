"""Processes of the service's own: whether there can be any, how they end, and how that is seen."""

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import starmap

from weighbridge.adapters.system import libc
from weighbridge.adapters.system.memory import ABSENT, sealable

NEEDED = "workers and runners need Linux 5.3 or newer, and a Python with os.memfd_create and os.pidfd_open"
"""What `can_be_started` looks for."""

_NAMES = (
    (os, "fork"),
    (os, "pidfd_open"),
    (signal, "pidfd_send_signal"),
    (socket, "SOCK_SEQPACKET"),
    (socket, "send_fds"),
)
_PR_SET_PDEATHSIG = 1  # of Linux' prctl.h


def can_be_started() -> bool:
    """Whether workers and runners can be had: forked, watched, told things, and lent memory that they cannot shrink.

    Without any one of these there is no plain way that is as safe, so the service is one process.
    """
    return all(starmap(hasattr, _NAMES)) and _has(lambda: watch(os.getpid())) and _has(lambda: sealable("trial"))


def _has(call: Callable[[], int | None]) -> bool:
    """Whether there is a call, which gives a descriptor."""
    try:
        descriptor = call()
    except OSError as exc:  # without a descriptor left it says so when it is needed
        return exc.errno not in ABSENT
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def end_with(parent: int | None = None) -> None:
    """Have this process killed when its parent ends; exit where a parent that is known has ended already."""
    libc.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        sys.exit(1)


def leave_signals_to_parent() -> None:
    """Ignore the signals that a terminal, or systemd, sends to all processes."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def watch(pid: int) -> int:
    """A descriptor that becomes readable when a process ends. Raises OSError."""
    return os.pidfd_open(pid)


def kill(watched: int) -> None:
    """End the process that a descriptor watches, and none that has its number by now. Raises ProcessLookupError."""
    signal.pidfd_send_signal(watched, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """End what a process has started that led a group of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def bury(pid: int) -> int:
    """How a child has ended, once it has; its group ends with it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    kill_group(pid)  # before it is waited for, so that the group is surely its own
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)

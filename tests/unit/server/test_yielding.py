import errno
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from weighbridge.server.yielding import give_way, wake_at_once, wake_gently

LINUX = tuple(map(int, os.uname().release.split(".")[:2]))


def slice_nanoseconds() -> int:
    """How long the calling thread runs at most before one that wakes is let in; 0 where Linux does not tell."""
    found = re.findall(r"^se\.slice +: +(\d+)$", Path("/proc/thread-self/sched").read_text("utf-8"), re.MULTILINE)
    return sum(map(int, found))


def in_a_thread(run: Callable[[], None]) -> None:
    """What a thread does to itself ends with it."""
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_a_thread_that_gives_way_is_nice_and_lets_others_in_at_once() -> None:
    seen: list[tuple[int, int]] = []

    def run() -> None:
        for _ in range(3):  # the last time there is nothing more to give
            seen.append((os.getpriority(os.PRIO_PROCESS, 0), slice_nanoseconds()))
            give_way()

    in_a_thread(run)

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert [niceness for niceness, _ in seen] == [usual, min(19, usual + 10), 19]
    assert (seen[1][1] > 10 * seen[0][1]) == (LINUX >= (6, 12))


def test_a_thread_may_wake_gently_and_at_once_again() -> None:
    seen: list[int] = []

    def run() -> None:
        wake_gently()
        seen.append(os.sched_getscheduler(0))
        wake_at_once()
        seen.append(os.sched_getscheduler(0))

    in_a_thread(run)

    assert seen == [os.SCHED_BATCH, os.SCHED_OTHER]


def test_a_policy_that_the_operator_chose_stays() -> None:
    seen: list[int] = []

    def run() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        for change in (wake_gently, wake_at_once):
            change()
            seen.append(os.sched_getscheduler(0))

    in_a_thread(run)

    assert seen == [os.SCHED_IDLE, os.SCHED_IDLE]


def test_where_a_sandbox_forbids_it_it_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)

    wake_gently()

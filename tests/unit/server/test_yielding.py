import errno
import itertools
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from weighbridge.server import yielding
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


def spend(monkeypatch: pytest.MonkeyPatch, times: list[int]) -> None:
    """Have all cores spend these times, of user, nice, system, idle and iowait, whenever they are looked at."""
    looks = ([look * each for each in times] for look in itertools.count())
    monkeypatch.setattr(yielding, "_spent", lambda: next(looks))


def test_a_thread_that_gives_way_is_nice_and_lets_others_in_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spend(monkeypatch, [8, 0, 0, 2, 0])
    seen: list[tuple[int, int]] = []

    def run() -> None:
        for _ in range(3):  # the last time there is nothing more to give
            seen.append((os.getpriority(os.PRIO_PROCESS, 0), slice_nanoseconds()))
            give_way()

    in_a_thread(run)

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert [niceness for niceness, _ in seen] == [usual, min(19, usual + 15), 19]
    assert (seen[1][1] > 10 * seen[0][1]) == (LINUX >= (6, 12))


@pytest.mark.parametrize(("times", "nicer"), [([9, 0, 0, 0, 2], 15), ([5, 4, 0, 1, 0], 0)])
def test_a_thread_that_gives_way_keeps_its_share_of_a_machine_that_has_nothing_left(
    monkeypatch: pytest.MonkeyPatch, times: list[int], nicer: int
) -> None:
    spend(monkeypatch, times)
    seen: list[int] = []

    def run() -> None:
        give_way()
        seen.append(os.getpriority(os.PRIO_PROCESS, 0))

    in_a_thread(run)

    assert seen == [min(19, os.getpriority(os.PRIO_PROCESS, 0) + nicer)]


def test_a_thread_that_gives_way_interrupts_no_other_when_it_wakes() -> None:
    seen: list[int] = []

    def run() -> None:
        give_way()
        seen.append(os.sched_getscheduler(0))

    in_a_thread(run)

    assert seen == [os.SCHED_BATCH]


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
        for change in (wake_gently, wake_at_once, give_way):
            change()
            seen.append(os.sched_getscheduler(0))

    in_a_thread(run)

    assert seen == [os.SCHED_IDLE] * 3


def test_where_a_sandbox_forbids_it_it_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)

    wake_gently()

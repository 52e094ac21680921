import asyncio
import errno
import itertools
import os
import sys
import threading
from collections.abc import Callable

import pytest

from tests.starving import room_for
from tests.unit.adapters.system.failing import failing
from weighbridge.adapters.system import priority
from weighbridge.adapters.system.priority import aside, giving_way, wake_at_once, wake_gently

USUAL = os.getpriority(os.PRIO_PROCESS, 0)


def in_a_thread(run: Callable[[], None]) -> None:
    """What a thread does to itself ends with it."""
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def spend(monkeypatch: pytest.MonkeyPatch, times: list[int]) -> None:
    """Have all cores spend these times, of user, nice, system, idle and iowait, whenever they are looked at."""
    looks = ([look * each for each in times] for look in itertools.count())
    monkeypatch.setattr(priority, "_spent", lambda: next(looks))


def test_a_thread_that_gives_way_is_nice_ever_after(monkeypatch: pytest.MonkeyPatch) -> None:
    spend(monkeypatch, [8, 0, 0, 2, 0])
    seen: list[int] = []

    def run() -> None:
        for _ in range(3):  # the last time there is nothing more to give
            seen.append(os.getpriority(os.PRIO_PROCESS, 0))
            with giving_way():
                pass

    in_a_thread(run)

    assert seen == [USUAL, 19, 19]


@pytest.mark.parametrize(("times", "niceness"), [([9, 0, 0, 0, 2], 19), ([5, 4, 0, 1, 0], USUAL)])
def test_a_thread_that_gives_way_keeps_its_share_of_a_machine_that_has_nothing_left(
    monkeypatch: pytest.MonkeyPatch, times: list[int], niceness: int
) -> None:
    spend(monkeypatch, times)
    seen: list[int] = []

    def run() -> None:
        with giving_way():
            seen.append(os.getpriority(os.PRIO_PROCESS, 0))

    in_a_thread(run)

    assert seen == [niceness]


def test_a_thread_that_cannot_look_how_busy_the_machine_is_keeps_its_share() -> None:
    seen: list[int] = []

    def run() -> None:
        with room_for(0), giving_way():
            seen.append(os.getpriority(os.PRIO_PROCESS, 0))

    in_a_thread(run)

    assert seen == [USUAL]


def test_a_thread_that_gives_way_interrupts_no_other_when_it_wakes() -> None:
    seen: list[int] = []

    def run() -> None:
        with giving_way():
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
        for change in (wake_gently, wake_at_once):
            change()
            seen.append(os.sched_getscheduler(0))
        with giving_way():
            seen.append(os.sched_getscheduler(0))

    in_a_thread(run)

    assert seen == [os.SCHED_IDLE] * 3


def test_a_function_that_runs_aside_soon_lets_go_of_the_interpreter() -> None:
    sys.setswitchinterval(0.005)  # Python's own

    assert asyncio.run(aside(sys.getswitchinterval)) < 0.005


def test_where_a_sandbox_forbids_it_it_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_setscheduler", failing(errno.EPERM))

    wake_gently()


CALLS = ("sched_getscheduler", "sched_setscheduler")


@pytest.mark.parametrize(
    "absence",
    [
        lambda patch: [patch.delattr(os, name) for name in (*CALLS, "SCHED_IDLE", "SCHED_BATCH", "SCHED_OTHER")],
        lambda patch: [patch.setattr(os, name, failing(errno.ENOSYS)) for name in CALLS],
        lambda patch: patch.delattr(os, "SCHED_BATCH"),
    ],
    ids=["macOS", "musl", "BSD"],
)
def test_on_a_system_without_policies_threads_wake_as_they_did(
    absence: Callable[[pytest.MonkeyPatch], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    spend(monkeypatch, [9, 0, 0, 0, 0])
    with monkeypatch.context() as patch:
        absence(patch)
        seen: list[str] = []

        def run() -> None:
            wake_gently()
            with giving_way():
                seen.append("ran")

        in_a_thread(run)

    assert seen == ["ran"]

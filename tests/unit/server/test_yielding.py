import ctypes
import errno
import hashlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.starving import room_for
from weighbridge.server import yielding
from weighbridge.server.yielding import STAND_BACK, giving_way, keep_apart, let_mingle, wake_at_once, wake_gently

USUAL = os.getpriority(os.PRIO_PROCESS, 0)
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
            with giving_way():
                pass

    in_a_thread(run)

    assert [niceness for niceness, _ in seen] == [USUAL, 19, 19]
    assert (seen[1][1] > 10 * seen[0][1]) == (LINUX >= (6, 12))


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


def signals(seconds: float, most: int) -> int:
    """How many tell the calling thread within that time to stand back, up to `most`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [STAND_BACK])
    count = 0
    while count < most and signal.sigtimedwait([STAND_BACK], seconds) is not None:
        count += 1
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [STAND_BACK])
    return count


@pytest.mark.parametrize(("times", "expected"), [([8, 0, 0, 2, 0], 5), ([10, 0, 0, 0, 0], 0)])
def test_a_thread_that_gives_way_stands_back_again_and_again_unless_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, times: list[int], expected: int
) -> None:
    spend(monkeypatch, times)
    seen: list[int] = []

    def run() -> None:
        with giving_way():
            seen.append(signals(10 if expected else 0.05, 5))
        seen.append(signals(0.05, 5))

    in_a_thread(run)

    assert seen == [expected, 0]


def test_to_stand_back_is_to_call_sched_yield(monkeypatch: pytest.MonkeyPatch) -> None:
    spend(monkeypatch, [8, 0, 0, 2, 0])
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p

    def run() -> None:
        with giving_way():
            hashlib.sha256(bytes(2**25)).digest()  # some tens of milliseconds in which no Python runs

    in_a_thread(run)

    assert libc.signal(STAND_BACK, None) == ctypes.cast(libc.sched_yield, ctypes.c_void_p).value


def test_where_no_timer_is_to_be_had_it_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    spend(monkeypatch, [8, 0, 0, 2, 0])
    monkeypatch.setattr(yielding, "_SYSTEM_CALLS", {})
    seen: list[int] = []

    def run() -> None:
        with giving_way():
            seen.extend((os.getpriority(os.PRIO_PROCESS, 0), signals(0.05, 1)))

    in_a_thread(run)

    assert seen == [19, 0]


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


def test_where_a_sandbox_forbids_it_it_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)

    wake_gently()


class Cores:
    """Those of a machine on which processes run, by the process; the one that asks has the number 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **of: set[int]) -> None:
        self.of = {int(process.removeprefix("p")): cores for process, cores in of.items()}
        monkeypatch.setattr(os, "sched_getaffinity", self.of.__getitem__)
        monkeypatch.setattr(os, "sched_setaffinity", self.of.__setitem__)


@pytest.mark.parametrize(
    ("cores", "processes", "apart"),
    [
        ({2, 5}, 1, [{2, 5}]),
        ({2, 5}, 2, [{2}, {5}]),
        ({2, 5}, 3, [{2}, {5}, {2}]),
        ({2, 5, 7, 9}, 2, [{2, 7, 9}, {5, 7, 9}]),
        ({2}, 2, [{2}, {2}]),
    ],
)
def test_processes_that_keep_apart_stay_off_the_cores_of_the_others(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], processes: int, apart: list[set[int]]
) -> None:
    numbers = [*range(10, 10 + processes)]
    machine = Cores(monkeypatch, p0=cores, **{f"p{number}": cores for number in numbers})

    assert keep_apart(numbers) == numbers
    assert [machine.of[number] for number in numbers] == apart


def test_a_process_stays_on_the_cores_that_the_operator_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Cores(monkeypatch, p0={2, 5}, p10={2, 5}, p11={5}, p12={2, 5})

    assert keep_apart([10, 11, 12]) == [10, 12]
    assert machine.of == {0: {2, 5}, 10: {2}, 11: {5}, 12: {5}}


def test_a_process_that_has_ended_is_passed_over() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()

    assert keep_apart([ended.pid]) == []
    let_mingle([ended.pid])


def test_what_a_process_has_started_meanwhile_may_run_anywhere_again() -> None:
    cores = os.sched_getaffinity(0)
    code = "import threading; input(); threading.Thread(target=input).start(); print(); input()"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    keep_apart([process.pid for process in both])
    for process in both:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()

    let_mingle([process.pid for process in both])

    threads = [thread for process in both for thread in Path(f"/proc/{process.pid}/task").iterdir()]
    assert [os.sched_getaffinity(int(thread.name)) for thread in threads] == [cores] * 4
    for process in both:
        process.communicate("\n\n")

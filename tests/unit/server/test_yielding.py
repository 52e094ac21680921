import os
import re
import threading
from pathlib import Path

from weighbridge.server.yielding import give_way

LINUX = tuple(map(int, os.uname().release.split(".")[:2]))


def slice_nanoseconds() -> int:
    """How long the calling thread runs at most before one that wakes is let in; 0 where Linux does not tell."""
    found = re.findall(r"^se\.slice +: +(\d+)$", Path("/proc/thread-self/sched").read_text("utf-8"), re.MULTILINE)
    return sum(map(int, found))


def test_a_thread_that_gives_way_is_nice_and_lets_others_in_at_once() -> None:
    seen: list[tuple[int, int]] = []

    def run() -> None:
        for _ in range(3):  # the last time there is nothing more to give
            seen.append((os.getpriority(os.PRIO_PROCESS, 0), slice_nanoseconds()))
            give_way()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert [niceness for niceness, _ in seen] == [usual, min(19, usual + 10), 19]
    assert (seen[1][1] > 10 * seen[0][1]) == (LINUX >= (6, 12))

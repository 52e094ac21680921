import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from mmap import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import DEADLINE, until
from weighbridge.adapters.series import MEMORY_BYTES, OVERFLOW, SECONDS, Table, read

LABELS = st.text(st.characters(exclude_characters="\x1f\0", exclude_categories=["Cs"]), max_size=20)
ROOM_FOR_TWO = 8 + (2 + 8) * 512  # the number, two records, and eight for what overflows


def counts(memory: bytearray | mmap) -> dict[tuple[str, ...], float]:
    """The first value of each series."""
    return {key: values[0] for key, values in read(memory)}


def test_a_new_series_is_all_zeros() -> None:
    memory = bytearray(MEMORY_BYTES)

    assert list(Table(memory).series("shed", "queue")) == [0.0] * (SECONDS + 1)
    assert list(read(memory)) == [(("shed", "queue"), [0.0] * (SECONDS + 1))]


def test_a_table_without_series_reads_as_none() -> None:
    assert list(read(bytearray(MEMORY_BYTES))) == []


def test_a_series_is_opened_once() -> None:
    memory = bytearray(MEMORY_BYTES)
    table = Table(memory)

    for _ in range(3):
        table.series("shed", "queue")[0] += 1

    assert counts(memory) == {("shed", "queue"): 3}


def test_each_value_is_kept_apart() -> None:
    memory = bytearray(MEMORY_BYTES)
    table = Table(memory)
    for first, reason in enumerate(("queue", "buffers")):
        values = table.series("shed", reason)
        for index in range(len(values)):
            values[index] = first + index / 100

    expected = [index / 100 for index in range(SECONDS + 1)]
    assert [values for _, values in read(memory)] == [expected, [1 + value for value in expected]]


@given(st.dictionaries(st.tuples(LABELS, LABELS, LABELS), st.floats(allow_nan=False)))
def test_what_is_written_is_read(written: dict[tuple[str, ...], float]) -> None:
    memory = bytearray(MEMORY_BYTES)
    table = Table(memory)
    for key, value in written.items():
        table.series(*key)[0] = value

    assert counts(memory) == written


def test_what_finds_no_room_is_counted_together_by_its_family() -> None:
    memory = bytearray(ROOM_FOR_TWO)
    table = Table(memory)
    for reason in ("queue", "buffers", "descriptors", "queue", "threads"):
        table.series("shed", reason)[0] += 1
    table.series("wait", "default", "1")[0] += 1

    assert counts(memory) == {
        ("shed", "queue"): 2,
        ("shed", "buffers"): 1,
        ("shed", OVERFLOW): 2,
        ("wait", OVERFLOW, OVERFLOW): 1,
    }


def test_a_full_table_has_room_for_the_overflow_of_eight_families() -> None:
    memory = bytearray(ROOM_FOR_TWO)
    table = Table(memory)
    families = [f"family {number}" for number in range(8)]
    for family in families:
        for label in "abc":
            table.series(family, label)[SECONDS] += 1

    assert sum(values[SECONDS] for _, values in read(memory)) == 24
    assert {key for key, _ in read(memory)} >= {(family, OVERFLOW) for family in families[1:]}


@pytest.mark.parametrize(("length", "fits"), [(363, True), (364, False)])
def test_a_label_that_is_too_long_for_a_record_is_counted_as_one_without_room(length: int, *, fits: bool) -> None:
    memory = bytearray(MEMORY_BYTES)
    Table(memory).series("shed", "x" * length)[0] += 1

    assert counts(memory) == {("shed", "x" * length if fits else OVERFLOW): 1}


def test_a_series_that_is_given_up_is_read_no_more_and_another_takes_its_place() -> None:
    memory = bytearray(ROOM_FOR_TWO)
    table = Table(memory)
    for version in "12":
        table.series("wait", version)[0] = 7

    table.release(lambda key: key == ("wait", "1"))
    assert counts(memory) == {("wait", "2"): 7}

    assert list(table.series("wait", "another name")) == [0.0] * (SECONDS + 1)
    assert counts(memory) == {("wait", "another name"): 0, ("wait", "2"): 7}
    table.series("wait", "3")[0] += 1
    assert counts(memory)["wait", OVERFLOW] == 1


def test_a_series_that_was_given_up_begins_anew() -> None:
    memory = bytearray(MEMORY_BYTES)
    table = Table(memory)
    table.series("wait", "1")[0] = 7
    table.release(lambda _: True)
    table.series("wait", "1")[0] += 1

    assert counts(memory) == {("wait", "1"): 1}


def test_series_that_threads_open_at_the_same_time_are_kept_apart() -> None:
    memory = bytearray(MEMORY_BYTES)
    table = Table(memory)
    names = [str(number) for number in range(1900)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda name: table.series("wait", name), names))
    finally:
        sys.setswitchinterval(before)

    assert sorted(label for (_, label), _ in read(memory)) == sorted(names)


# Another process writes

WRITER = """
import sys
from itertools import count
from mmap import mmap
from weighbridge.adapters.series import MEMORY_BYTES, SECONDS, Table

memory = mmap(int(sys.argv[1]), MEMORY_BYTES)
table = Table(memory)
begun, ended = table.series("begun"), table.series("ended")
for number in count():
    begun[0] += 1
    values = table.series("wait", "a model with a name of some length", str(number // 1000 % 1000))
    values[number % SECONDS] += 1
    values[SECONDS] += 0.25
    ended[0] += 1
"""


RENEWING_WRITER = """
import sys
from itertools import count
from mmap import mmap
from weighbridge.adapters.series import MEMORY_BYTES, Table

table = Table(mmap(int(sys.argv[1]), MEMORY_BYTES))
for number in count(1):
    table.series("wait", "-".join([str(number)] * 20))[0] = number
    table.release(lambda _: True)
"""


@contextmanager
def shared(program: str = WRITER) -> Iterator[tuple[mmap, subprocess.Popen[bytes]]]:
    """Memory, and a process that writes into it until it is killed; one series of 1,000 observations after the other.

    A `program` may write something else.
    """
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, MEMORY_BYTES)
    with (
        mmap(descriptor, MEMORY_BYTES) as memory,
        subprocess.Popen([sys.executable, "-c", program, str(descriptor)], pass_fds=[descriptor]) as writer,
    ):
        os.close(descriptor)
        try:
            yield memory, writer
        finally:
            writer.kill()


def observed(memory: mmap) -> float:
    """All that the writer has counted in the buckets."""
    return sum(sum(values[:SECONDS]) for key, values in read(memory) if key[0] == "wait")


def test_a_reader_sees_whole_series_that_only_grow_while_another_process_writes() -> None:
    last = 0.0

    def has_seen_enough() -> bool:
        nonlocal last
        waits = [(key, values) for key, values in read(memory) if key[0] == "wait"]
        total = sum(sum(values[:SECONDS]) for _, values in waits)
        assert total >= last
        last = total
        assert [key[1:] for key, _ in waits] == [
            ("a model with a name of some length", str(number)) for number in range(len(waits))
        ]
        assert all(sum(values[:SECONDS]) == 1000 == values[SECONDS] * 4 for _, values in waits[:-1])
        return len(waits) > 50

    with shared() as (memory, _):
        until(has_seen_enough)


def test_a_reader_sees_no_half_of_a_series_that_takes_the_place_of_another() -> None:
    seen: set[float] = set()

    def has_seen_enough() -> bool:
        for _ in range(1000):
            for (family, label), values in read(memory):
                number, *others = label.split("-")
                assert (family, others) == ("wait", [number] * 19)
                assert values[0] in {0, float(number)}
                seen.add(values[0])
        return len(seen) > 50

    with shared(RENEWING_WRITER) as (memory, _):
        until(has_seen_enough)


@pytest.mark.parametrize("least", [1, 5_000, 50_000])
def test_a_writer_that_is_killed_in_the_midst_leaves_exact_counts(least: int) -> None:
    with shared() as (memory, writer):
        until(lambda: observed(memory) >= least)
        writer.send_signal(signal.SIGKILL)
        writer.wait(DEADLINE)
        (_, begun), (_, ended), *waits = read(memory)

    counted = sum(sum(values[:SECONDS]) for _, values in waits)
    seconds = sum(values[SECONDS] for _, values in waits)
    assert begun[0] - ended[0] in {0, 1}
    assert ended[0] <= counted <= begun[0]
    assert counted - 1 <= seconds * 4 <= counted


DYING_WRITER = """
import os, sys
from mmap import mmap
from weighbridge.adapters.series import MEMORY_BYTES, Table

descriptor = int(sys.argv[1])
table = Table(mmap(descriptor, MEMORY_BYTES))
os.ftruncate(descriptor, 4096)  # from now on, writing to the second page ends the process
for number in range(100):
    table.series("shed", str(number))
"""


def test_a_writer_that_dies_of_writing_a_key_leaves_no_part_of_its_series() -> None:
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, MEMORY_BYTES)
    writer = subprocess.run(
        [sys.executable, "-c", DYING_WRITER, str(descriptor)], pass_fds=[descriptor], timeout=DEADLINE, check=False
    )
    os.ftruncate(descriptor, MEMORY_BYTES)
    with mmap(descriptor, MEMORY_BYTES) as memory:
        os.close(descriptor)
        left = counts(memory)

    assert writer.returncode == -signal.SIGBUS
    assert left == {("shed", str(number)): 0.0 for number in range(7)}

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
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


@contextmanager
def shared() -> Iterator[tuple[mmap, subprocess.Popen[bytes]]]:
    """Memory, and a process that writes a series of 1,000 observations after the other into it, until it is killed."""
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, MEMORY_BYTES)
    with (
        mmap(descriptor, MEMORY_BYTES) as memory,
        subprocess.Popen([sys.executable, "-c", WRITER, str(descriptor)], pass_fds=[descriptor]) as writer,
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
    assert left == {("shed", str(number)): 0.0 for number in range(8)}

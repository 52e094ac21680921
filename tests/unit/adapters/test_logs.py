import json
import logging
import os
import resource
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Literal, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import FilteringBoundLogger

from tests.unit.log import Log
from tests.waiting import until
from weighbridge.adapters import logs
from weighbridge.adapters.logs import LineWriter, start_logging

started = contextmanager(start_logging)


@contextmanager
def json_logger(log: Log, level: str = "debug") -> Iterator[FilteringBoundLogger]:
    with started(log.descriptor, level=level, log_format="json") as logger:
        yield logger


def lose(_password: str) -> NoReturn:
    raise LookupError("it is\nnot there")


def lost() -> LookupError:
    """An error with a traceback, in which a variable holds a secret."""
    with pytest.raises(LookupError) as caught:
        lose("".join(reversed("terces")))
    return caught.value


class Pipe:
    """A pipe whose writing end a writer is given; nobody reads it until told to."""

    def __init__(self) -> None:
        self._reading, self.descriptor = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self.lines: list[bytes] = []

    def read(self) -> None:
        """Read lines from now on."""
        self._reader.start()

    def _read(self) -> None:
        with os.fdopen(self._reading, "rb") as reader:
            self.lines.extend(reader)

    def close_reader(self) -> None:
        os.close(self._reading)

    def close(self) -> None:
        """Close the writing end, and read to the end what is being read."""
        os.close(self.descriptor)
        if self._reader.ident is not None:
            self._reader.join()


# Lines


def test_lines_are_written_in_order() -> None:
    pipe = Pipe()
    pipe.read()
    writer = LineWriter(pipe.descriptor)

    for number in range(100):
        writer.write(str(number))
    writer.close()
    pipe.close()

    assert pipe.lines == [b"%d\n" % number for number in range(100)]
    assert writer.dropped == 0


def test_a_pipe_that_nobody_reads_delays_nobody_and_what_it_cannot_take_is_counted() -> None:
    pipe = Pipe()
    writer = LineWriter(pipe.descriptor)

    start = time.monotonic()
    for _ in range(12_000):
        writer.write("x" * 1000)
    took = time.monotonic() - start
    pipe.read()
    until(lambda: len(pipe.lines) + writer.dropped == 12_000)
    writer.close()
    pipe.close()

    assert took < 5
    assert writer.dropped > 1000
    assert set(pipe.lines) == {b"x" * 1000 + b"\n"}


def test_closing_waits_a_second_at_most_for_a_reader_that_never_reads() -> None:
    pipe = Pipe()
    writer = LineWriter(pipe.descriptor)
    for _ in range(1000):
        writer.write("x" * 1000)

    start = time.monotonic()
    writer.close()
    took = time.monotonic() - start
    pipe.close_reader()  # every line fails, so that the writer's thread ends
    until(lambda: writer.dropped > 900)
    pipe.close()

    assert took < 5


def test_lines_for_a_reader_that_has_gone_are_dropped_and_counted() -> None:
    pipe = Pipe()
    pipe.close_reader()
    writer = LineWriter(pipe.descriptor)

    for _ in range(3):
        writer.write("lost")
    writer.close()
    pipe.close()

    assert writer.dropped == 3


def test_lines_for_a_closed_descriptor_are_dropped_and_counted() -> None:
    pipe = Pipe()
    pipe.close_reader()
    pipe.close()
    writer = LineWriter(pipe.descriptor)

    writer.write("lost")
    writer.close()

    assert writer.dropped == 1


def test_a_descriptor_that_does_not_block_gets_every_line_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe()
    os.set_blocking(pipe.descriptor, False)
    waits = threading.Event()

    def seen(reading: list[int], writing: list[int], failing: list[int]) -> object:
        waits.set()
        return select.select(reading, writing, failing)

    monkeypatch.setattr(logs, "select", SimpleNamespace(select=seen))
    writer = LineWriter(pipe.descriptor)
    for _ in range(300):
        writer.write("x" * 1000)
    assert waits.wait(10), "the pipe never was full"
    pipe.read()
    until(lambda: len(pipe.lines) == 300)
    writer.close()
    pipe.close()

    assert pipe.lines == [b"x" * 1000 + b"\n"] * 300
    assert writer.dropped == 0


def test_a_line_that_a_full_disk_cut_short_spoils_no_other(log: Log) -> None:
    writer = LineWriter(log.descriptor)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (15, unlimited[1]))
    try:
        for number in (1, 2, 3):
            writer.write(f"line no {number}")
        until(lambda: writer.dropped == 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    writer.write("line no 4")
    writer.close()

    assert log.text.splitlines() == ["line no 1", "line ", "line no 4"]


# Loggers


@given(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.just(object()),
        lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
        max_leaves=5,
    ),
)
def test_whatever_is_logged_is_one_json_object_a_line(
    tmp_path_factory: pytest.TempPathFactory, event: str, value: object
) -> None:
    log = Log(tmp_path_factory.mktemp("log") / "log")

    with json_logger(log) as logger:
        logger.info(event, value=value)
        logger.info("next")

    assert [line["event"] for line in log.events] == [event, "next"]
    log.close()


def test_a_json_line_has_its_level_and_its_time_in_utc(log: Log) -> None:
    with json_logger(log) as logger:
        logger.warning("something", count=3)

    [line] = log.events
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "something", "count": 3, "level": "warning"}


def test_a_traceback_is_part_of_its_json_line(log: Log) -> None:
    with json_logger(log) as logger:
        logger.error("failed", exc_info=lost())

    [line] = log.events
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("LookupError: it is\nnot there")


def test_lines_below_the_level_are_left_out(log: Log) -> None:
    with json_logger(log, level="warning") as logger:
        for level in ("debug", "info", "warning", "error"):
            logger.log(logging.getLevelName(level.upper()), level)

    assert [line["event"] for line in log.events] == ["warning", "error"]


def test_the_console_shows_a_value_without_its_control_characters(log: Log) -> None:
    with started(log.descriptor, level="info", log_format="console") as logger:
        logger.info("request", path="/\x1b[2J\r\n\u2028")

    [line] = log.text.split("\n")[:-1]
    assert line.endswith(r" path='/\x1b[2J\r\n\u2028'")


def test_the_console_shows_a_traceback_without_the_values_of_variables(log: Log) -> None:
    with started(log.descriptor, level="info", log_format="console") as logger:
        logger.error("failed", exc_info=lost())

    assert "Traceback (most recent call last):" in log.text
    assert "LookupError: it is\nnot there" in log.text
    assert "secret" not in log.text


def test_the_console_shows_text_that_is_no_unicode(log: Log) -> None:
    with started(log.descriptor, level="info", log_format="console") as logger:
        logger.info("lone \ud800")

    assert log.text.endswith("lone \\ud800\n")


@pytest.mark.parametrize(("log_format", "start"), [("auto", b"\x1b["), ("console", b"\x1b["), ("json", b"{")])
def test_a_terminal_gets_the_console_in_colours_unless_json_is_asked_for(
    log_format: Literal["auto", "json", "console"], start: bytes
) -> None:
    ours, terminal = os.openpty()

    with started(terminal, level="info", log_format=log_format) as logger:
        logger.info("something")
    line = os.read(ours, 1000)
    os.close(terminal)
    os.close(ours)

    assert line.startswith(start)


def test_anything_but_a_terminal_gets_json_by_itself(log: Log) -> None:
    with started(log.descriptor, level="info", log_format="auto") as logger:
        logger.info("something")

    assert log.of("something")


def test_lines_that_were_dropped_are_told_of_at_the_end() -> None:
    pipe = Pipe()
    with started(pipe.descriptor, level="info", log_format="json") as logger:
        for _ in range(12_000):
            logger.info("x" * 1000)
        pipe.read()
        until(lambda: len(pipe.lines) >= 10_000)
    pipe.close()

    *written, last = (json.loads(line) for line in pipe.lines)
    assert last["event"] == "log_lines_dropped"
    assert last["count"] == 12_000 - len(written)


# Loggers of the standard library


def test_warnings_of_other_loggers_are_logged_with_the_loggers_name(log: Log) -> None:
    with json_logger(log):
        logging.getLogger("somebody.else").warning("%s out of %d", "three", 4)

    [line] = log.events
    assert (line["event"], line["logger"], line["level"]) == ("three out of 4", "somebody.else", "warning")


def test_a_traceback_of_another_logger_is_logged(log: Log) -> None:
    with json_logger(log):
        logging.getLogger("somebody.else").error("failed", exc_info=lost())

    [line] = log.events
    assert line["exception"].endswith("LookupError: it is\nnot there")


@pytest.mark.parametrize(("level", "name"), [(35, "warning"), (50, "critical"), (99, "critical")])
def test_levels_of_others_become_the_nearest_of_ours_below(log: Log, level: int, name: str) -> None:
    with json_logger(log):
        logging.getLogger("somebody.else").log(level, "something")

    assert [line["level"] for line in log.events] == [name]


def test_other_loggers_are_left_alone_afterwards(log: Log) -> None:
    with json_logger(log):
        pass

    logging.getLogger("somebody.else").warning("too late")

    assert log.events == []

"""Log lines for operators: structured, and never holding up a request."""

import json
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Iterator
from typing import Literal

import structlog
from structlog.typing import FilteringBoundLogger, Processor

_QUEUED_LINES = 10_000
_FLUSH_SECONDS = 1.0


class LineWriter:
    """Writes lines to a file descriptor from a thread of its own, so that a slow or absent reader delays nobody.

    A line that finds the queue full, or the descriptor closed, is dropped and counted in `dropped`.
    """

    # A non-blocking descriptor instead of a thread would block no request either, but other processes share the flag.

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._torn = False
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._pending = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue one line, given without its end; never waits."""
        if len(self._lines) >= _QUEUED_LINES:
            self.dropped += 1
            return
        self._lines.append(line.encode(errors="backslashreplace") + b"\n")
        self._pending.release()

    debug = info = warning = error = critical = exception = write  # what structlog calls, by level

    def close(self) -> None:
        """Write what is queued, unless that takes longer than a second."""
        self._pending.release()
        self._thread.join(_FLUSH_SECONDS)

    def _run(self) -> None:
        while True:
            self._pending.acquire()
            if not self._lines:
                return
            try:
                self._write_whole(self._lines.popleft())
            except OSError:
                self.dropped += 1

    def _write_whole(self, line: bytes) -> None:
        if self._torn:  # a full disk took only the beginning of the line before
            line = b"\n" + line
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
                self._torn = bool(line)
            except BlockingIOError:  # a descriptor that was made non-blocking by whoever shares it
                select.select([], [self._descriptor], [])


class _StandardLibraryBridge(logging.Handler):
    """Hands the records of the standard library's loggers, such as uvicorn's, to the structured one."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        level = min(record.levelno // 10 * 10, logging.CRITICAL)  # structlog knows only the levels with names
        self._logger.log(level, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def start_logging(
    descriptor: int, *, level: str, log_format: Literal["auto", "json", "console"]
) -> Iterator[FilteringBoundLogger]:
    """Yield the logger of this process; while it lives, warnings of the standard library's loggers go there too."""
    writer = LineWriter(descriptor)
    terminal = os.isatty(descriptor)
    for_people = log_format == "console" or (log_format == "auto" and terminal)
    logger: FilteringBoundLogger = structlog.wrap_logger(
        writer,
        processors=_console(colours=terminal) if for_people else _json(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
    ).bind()
    bridge = _StandardLibraryBridge(logger)
    root = logging.getLogger()
    root.addHandler(bridge)
    try:
        yield logger
    finally:
        root.removeHandler(bridge)
        if writer.dropped:
            logger.warning("log_lines_dropped", count=writer.dropped)
        writer.close()


def _json() -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(json.dumps),
    ]


def _console(*, colours: bool) -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        # Values may come from a client: their repr keeps control characters off the terminal.
        structlog.dev.ConsoleRenderer(
            colors=colours,
            repr_native_str=True,
            exception_formatter=structlog.dev.plain_traceback,  # its default shows local variables, if rich is there
        ),
    ]

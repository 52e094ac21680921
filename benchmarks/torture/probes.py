"""Probes as an orchestrator sends them: a connection each, 20 a second."""

import socket
import threading
from time import monotonic
from types import TracebackType
from typing import Self

from benchmarks.torture.exchanges import HOST

PERIOD_SECONDS = 0.05
_TIMEOUT_SECONDS = 1.0
_CHUNK = 4096


class Probes:
    """Asks one path again and again, from `with` on."""

    def __init__(self, port: int, path: str) -> None:
        self.seconds: list[float] = []
        """How long each took; infinite when it did not get 200."""
        self._address = (HOST, port)
        self._request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def slowest(self) -> float:
        """The longest that one took, in seconds."""
        return max(self.seconds, default=float("inf"))

    def share_within(self, seconds: float) -> float:
        """The share of those that took at most so long, from 0 to 1."""
        return sum(took <= seconds for took in self.seconds) / max(1, len(self.seconds))

    def _run(self) -> None:
        due = monotonic()
        while not self._ended.wait(max(0.0, due - monotonic())):
            began = monotonic()
            good = self._ask()
            self.seconds.append(monotonic() - began if good else float("inf"))
            due = max(due + PERIOD_SECONDS, monotonic())

    def _ask(self) -> bool:
        received = b""
        try:
            with socket.create_connection(self._address, _TIMEOUT_SECONDS) as connection:
                connection.sendall(self._request)
                while data := connection.recv(_CHUNK):
                    received += data
        except OSError:
            return False
        return received.startswith(b"HTTP/1.1 200 ")

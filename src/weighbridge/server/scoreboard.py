"""What a worker shares with its supervisor: memory that outlives the worker, however that ends."""

import ctypes
import mmap
import os
from typing import Self

from weighbridge.adapters.series import MEMORY_BYTES
from weighbridge.adapters.system.memory import shared


class Vitals(ctypes.Structure):
    """Signs of life. A worker writes them, its supervisor reads; each is one aligned word, so none is ever half new.

    `full` alone both write, in turn: the worker sets it, and reads its channel no more until the supervisor has taken
    back what found no room, and unsets it.
    """

    _fields_ = (
        ("beats", ctypes.c_uint64),  # goes up with each step of the start, then with time while the event loop runs
        ("closed", ctypes.c_uint64),  # connections that have ended or were handed back, from the start
        ("in_flight", ctypes.c_uint64),  # requests that the application works on
        ("buffered_bytes", ctypes.c_uint64),  # what all connections buffer
        ("full", ctypes.c_uint64),  # 1 while a connection that was handed over finds no descriptor
    )

    beats: int
    closed: int
    in_flight: int
    buffered_bytes: int
    full: int


class Scoreboard:
    """The shared memory of one worker: its vitals, and after them the table of its metrics."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        size = ctypes.sizeof(Vitals)
        self._memory = mmap.mmap(descriptor, size + MEMORY_BYTES)
        self.vitals = Vitals.from_buffer(self._memory)
        self.metrics = memoryview(self._memory)[size:]

    @classmethod
    def create(cls) -> Self:
        """A new one, all zero, in memory that no file system holds. Raises OSError."""
        descriptor = shared("worker", ctypes.sizeof(Vitals) + MEMORY_BYTES)
        try:
            return cls(descriptor)
        except OSError:
            os.close(descriptor)
            raise

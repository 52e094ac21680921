"""What a runner shows the process that started it, in memory that outlives the runner."""

import ctypes
import mmap
import os
from typing import Self

from weighbridge.adapters.system.memory import shared


class RunnerVitals(ctypes.Structure):
    """Counts and times of a runner, in seconds of the monotonic clock. Only the runner writes them.

    They may be anything where an artefact has taken the runner over: nobody but the operator relies on them.
    """

    _fields_ = (
        ("calls", ctypes.c_uint64),
        ("rows", ctypes.c_uint64),
        ("busy", ctypes.c_double),  # in calls that have ended
        ("began", ctypes.c_double),  # when the call that is going on began, 0 where there is none
    )

    calls: int
    rows: int
    busy: float
    began: float


class SharedVitals:
    """The vitals in memory that both processes have, and that the runner cannot make smaller."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.vitals = RunnerVitals.from_buffer(mmap.mmap(descriptor, ctypes.sizeof(RunnerVitals)))

    @classmethod
    def create(cls) -> Self:
        """New ones, all zero. Raises OSError."""
        descriptor = shared("runner", ctypes.sizeof(RunnerVitals))
        try:
            return cls(descriptor)
        except OSError:
            os.close(descriptor)
            raise

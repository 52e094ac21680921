"""What processes take of the machine, where the system has files that tell."""

import os
from pathlib import Path
from typing import NamedTuple, Self


class Usage(NamedTuple):
    """What a process takes of the machine."""

    resident_bytes: int
    cpu_seconds: float
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """That of a process; raises OSError when it does not run, or where nobody tells."""
        process = Path("/proc") / str(pid)
        fields = (process / "stat").read_text().rpartition(")")[2].split()  # the command before may hold spaces
        ticks_a_second = os.sysconf("SC_CLK_TCK")
        return cls(
            resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
            cpu_seconds=(int(fields[11]) + int(fields[12])) / ticks_a_second,
            descriptors=sum(1 for _ in (process / "fd").iterdir()),
        )

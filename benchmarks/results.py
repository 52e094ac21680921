"""What a run found, as it is kept in .bench/ and as the report reads it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".bench"


class BenchmarkFailed(Exception):
    """The run cannot go on; the message says what was expected, what came and what to do."""


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst of load on one server; every reply was good, or there would be no such object."""

    requests: int
    seconds: float
    cpu_seconds: float
    p50_ms: float
    p99_ms: float
    others_share: float
    """What processes other than the server used of its core, from 0 to 1."""

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        """Processor time per request, in microseconds, of all the server's processes."""
        return self.cpu_seconds / self.requests * 1e6


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a server with no other server running, and its memory after a short burst."""

    seconds: float
    """From the start of the process to the first good answer."""
    process_mib: float
    """Proportional set size of the one process that used most processor time in the burst."""
    tree_mib: float
    """The same, over all the server's processes."""
    processes: int


@dataclass(slots=True)
class Results:
    """A whole run."""

    conditions: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    starts: dict[str, list[Start]] = field(default_factory=dict)
    bursts: dict[str, dict[str, list[Burst]]] = field(default_factory=dict)
    """By scenario, then by server, in the order of the rounds."""
    notes: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the run as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read what `save` wrote."""
        kept: dict[str, Any] = json.loads(path.read_text())
        starts = {server: [Start(**start) for start in starts] for server, starts in kept.pop("starts").items()}
        bursts = {
            scenario: {server: [Burst(**burst) for burst in bursts] for server, bursts in by_server.items()}
            for scenario, by_server in kept.pop("bursts").items()
        }
        return cls(**kept, starts=starts, bursts=bursts)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How often one server's throughput goes into another's: over the rounds, taken pair by pair within each."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, bursts: list[Burst], baseline: list[Burst]) -> "Ratio":
        """The throughput of `bursts` in units of that of `baseline`."""
        ratios = [one.per_second / other.per_second for one, other in zip(bursts, baseline, strict=True)]
        return cls(median(ratios), min(ratios), max(ratios))

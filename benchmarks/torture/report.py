"""What was found: rows of the table, kept from run to run, printed, and written into docs/reliability.md."""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.page import publish
from benchmarks.results import ROOT, WORK

PAGE = ROOT / "docs" / "reliability.md"
_KEPT = WORK / "reliability.json"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what was done to the service, what should come of it, and what did."""

    fault: str
    wanted: str
    measured: str
    ok: bool | None
    """None where nothing was promised."""

    def __str__(self) -> str:
        return f"| {self.fault} | {self.wanted} | {self.measured} | {_VERDICTS[self.ok]} |"


_VERDICTS = {True: "yes", False: "**no**", None: ""}


def keep(scenario: str, rows: Iterable[Row]) -> None:
    """Keep the rows of a scenario, in the place of those of its last run."""
    kept = _load()
    kept[scenario] = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "rows": [asdict(row) for row in rows]}
    _KEPT.parent.mkdir(parents=True, exist_ok=True)
    _KEPT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


def as_markdown(scenarios: Iterable[str]) -> str:
    """The machine, and the rows that are kept of these scenarios."""
    kept = _load()
    present = [kept[scenario] for scenario in scenarios if scenario in kept]
    dates = sorted(str(one["date"]) for one in present)
    lines = [f"- {name}: {value}" for name, value in {**_machine(), "measured (UTC)": _span(dates)}.items()]
    lines += ["", "| fault | wanted | measured | reached |", "|---|---|---|---|"]
    lines += [str(Row(**row)) for one in present for row in one["rows"]]
    return "\n".join(lines)


def publish_rows(scenarios: Iterable[str]) -> None:
    """Write what is kept into the documentation."""
    publish("results", as_markdown(scenarios), PAGE)


def _load() -> dict[str, dict[str, Any]]:
    if not _KEPT.exists():
        return {}
    kept: dict[str, dict[str, Any]] = json.loads(_KEPT.read_text("utf-8"))
    return kept


def _span(dates: list[str]) -> str:
    return dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"


def _machine() -> dict[str, str]:
    models = (line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name"))
    kernel = ".".join(platform.release().split(".")[:2])
    return {
        "processor": f"{next(models, 'model name: unknown').partition(':')[2].strip()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {kernel}, Python {platform.python_version()}",
    }

"""`python -m benchmarks.torture`: set the faults on the service; `--help` says what can be chosen."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPException
from time import monotonic

from benchmarks.results import BenchmarkFailed
from benchmarks.torture import (
    capacity,
    crashes,
    crowded,
    hangs,
    models,
    neighbours,
    overload,
    signals,
    soak,
    starvation,
)
from benchmarks.torture.report import Row, as_markdown, keep, publish_rows
from benchmarks.wrk import check_tools

SCENARIOS: dict[str, Callable[[], Iterator[Row]]] = {
    "sigterm": signals.sigterm,
    "sighup": signals.sighup,
    "sigkill": signals.sigkill,
    "stopped": hangs.stopped,
    "blocked": hangs.blocked,
    "orphans": signals.orphans,
    "beside": neighbours.beside,
    "long-calls": neighbours.long_calls,
    "raises": crashes.raises,
    "crashes": crashes.crashes,
    "never-returns": crashes.never_returns,
    "hostile-runner": crashes.hostile_runner,
    "overload": overload.slow_model,
    "embedded": overload.embedded_model,
    "stdout": starvation.standard_output_closed,
    "disk": starvation.disk_full,
    "few-descriptors": starvation.few_descriptors,
    "no-descriptors": starvation.no_descriptors,
    "activations": models.activations,
    "corrupt-on-disk": models.corrupt_on_disk,
    "large-model": models.large_model,
    "hostile": models.hostile,
    "crowded": crowded.crowded,
    "memory": capacity.memory,
    "many-models": capacity.many_models,
    "workers": capacity.shared_connections,
    "shared-calls": capacity.shared_calls,
    "instances": capacity.two_instances,
    "fast-road": capacity.fast_road,
    "soak": soak.soak,
}
_LONG = "soak"


def main() -> int:
    """Run what the command line asks for; 0 when every row reached its figure."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the services are stopped then, too
    chosen = options.only or [name for name in SCENARIOS if name != _LONG]
    if options.soak:
        chosen = [*chosen, _LONG]
    try:
        check_tools()
    except BenchmarkFailed as exc:
        sys.stderr.write(f"torture failed: {exc}\n")
        return 1
    reached = [_run(name) for name in dict.fromkeys(chosen)]
    if options.publish:
        publish_rows(SCENARIOS)
    sys.stdout.write(f"{as_markdown(chosen)}\n")
    return 0 if all(reached) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description="Set faults on the service.")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=SCENARIOS, help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--soak", action="store_true", help="ten minutes more, of everything at once")
    parser.add_argument("--publish", action="store_true", help="write docs/reliability.md, of this and earlier runs")
    return parser


def _run(name: str) -> bool:
    began = monotonic()
    try:
        rows = list(SCENARIOS[name]())
    except (BenchmarkFailed, OSError, HTTPException) as exc:  # the other scenarios can still tell something
        rows = [Row(name, "that it runs to its end", f"{type(exc).__name__}: {exc}", ok=False)]
    keep(name, rows)
    sys.stderr.write(f"{name}, {monotonic() - began:.0f} s\n")
    for row in rows:
        sys.stderr.write(f"  {row}\n")
    return all(row.ok is not False for row in rows)


if __name__ == "__main__":
    sys.exit(main())

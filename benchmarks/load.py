"""Bursts of load, by wrk."""

from dataclasses import dataclass
from time import monotonic

from benchmarks.catalogue import Scenario
from benchmarks.processes import RunningServer, busy_seconds
from benchmarks.results import WORK, BenchmarkFailed, Burst
from benchmarks.wrk import Counts, Wrk


@dataclass(frozen=True, slots=True)
class Load:
    """A load generator on one core, with keep-alive connections to servers on another where there are two."""

    connections: int
    server_core: int
    load_core: int

    def burst(self, running: RunningServer, scenario: Scenario, seconds: int) -> Burst:
        """Load one server for some seconds. Raises BenchmarkFailed when any reply is not 2xx, or a socket fails."""
        began, before, busy = monotonic(), running.cpu_seconds(), busy_seconds(self.server_core)
        counts = self._run_wrk(running, scenario, seconds)
        busy, took = busy_seconds(self.server_core) - busy, monotonic() - began
        used = sum(after - before.get(pid, 0.0) for pid, after in running.cpu_seconds().items())
        running.check(scenario)  # which also waits for what wrk left in the server's queue
        return Burst(
            requests=counts.requests,
            seconds=counts.seconds,
            cpu_seconds=used,
            p50_ms=counts.p50_ms,
            p99_ms=counts.p99_ms,
            others_share=max(0.0, busy - used) / took,
        )

    def _run_wrk(self, running: RunningServer, scenario: Scenario, seconds: int) -> Counts:
        name, request = running.server.name, running.server.requests[scenario.form]
        wrk = Wrk(
            url=f"http://127.0.0.1:{running.port}{request.path}",
            headers=request.headers,
            body=request.encode(scenario.rows),
            cores=str(self.load_core),
            folder=WORK / "wrk",
            name=f"{name}-{scenario.name}",
        )
        counts = wrk.run(self.connections, seconds)
        if counts.errors or not counts.requests:
            raise BenchmarkFailed(
                f"{name}: expected only 2xx replies in {scenario.name}, got {counts.requests} replies, "
                f"of them with errors: {counts.errors}"
            )
        return counts

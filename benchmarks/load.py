"""Bursts of load, by wrk."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Self

from benchmarks.catalogue import Scenario
from benchmarks.processes import RunningServer, busy_seconds
from benchmarks.results import WORK, BenchmarkFailed, Burst
from benchmarks.wrk import Counts, Wrk

WARM_UP_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Load:
    """A load generator on one core, with keep-alive connections to servers on another where there are two."""

    connections: int
    server_core: int
    load_core: int

    @classmethod
    def from_another_core(cls, connections: int) -> Self:
        """With the servers on the first core; this program is on the second from now on, if there is one."""
        cores = sorted(os.sched_getaffinity(0))
        load = cls(connections, server_core=cores[0], load_core=cores[min(1, len(cores) - 1)])
        os.sched_setaffinity(0, {load.load_core})
        return load

    def conditions(self, rounds: int, seconds: int) -> dict[str, str]:
        """In words: when and where that is, which cores are whose, and how much load there is."""
        models = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
        kernel = ".".join(platform.release().split(".")[:2])
        cores = f"all processes of a server on core {self.server_core}, wrk on core {self.load_core}"
        if self.server_core == self.load_core:
            cores = "one core only, which the servers share with wrk: the throughput is that of both together"
        return {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "processor": next(models, "model name: unknown").partition(":")[2].strip(),
            "system": f"{platform.system()} {kernel}, Python {platform.python_version()}",
            "cores": cores,
            "load": f"{self.connections} keep-alive connections, {rounds} rounds of bursts of {seconds} s, "
            "after a warm-up",
        }

    def by_turns(
        self, servers: Sequence[RunningServer], scenario: Scenario, rounds: int, seconds: int
    ) -> dict[str, list[Burst]]:
        """A burst on each server in every round, after one to warm up; by the server's name. Raises BenchmarkFailed.

        Each round begins with another server, so that none always follows the same one.
        """
        bursts: dict[str, list[Burst]] = {one.server.name: [] for one in servers}
        for one in servers:
            with one.awake():
                self.burst(one, scenario, WARM_UP_SECONDS)
        for number in range(rounds):
            say(f"{scenario.title}: round {number + 1} of {rounds}")
            first = number % len(servers)
            for one in [*servers[first:], *servers[:first]]:
                with one.awake():
                    bursts[one.server.name].append(self.burst(one, scenario, seconds))
        return bursts

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


def say(message: str) -> None:
    """Tell whoever waits for the figures how far they are."""
    sys.stderr.write(f"{message}\n")

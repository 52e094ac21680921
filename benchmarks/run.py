"""`python -m benchmarks.run`: measure servers side by side; README.md says how, `--help` what can be chosen."""

import argparse
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.catalogue import SCENARIOS, SERVERS, Scenario, Server
from benchmarks.load import Load
from benchmarks.processes import RunningServer, environment_of
from benchmarks.report import FULL, as_markdown, publish_results
from benchmarks.results import WORK, BenchmarkFailed, Burst, Results, Start
from benchmarks.wrk import check_tools

_WARM_UP_SECONDS = 1
_UNSUPPORTED = 415


def main() -> int:
    """Run what the command line asks for; 0 when every reply of every burst was good."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped then, too
    try:
        check_tools()
        Run(options).run()
    except BenchmarkFailed as exc:
        sys.stderr.write(f"benchmark failed: {exc}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure servers side by side.")
    usual = [name for name, server in SERVERS.items() if not server.optional]
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=usual, help="default: all but ray")
    parser.add_argument("--with-ray", action="store_true", help="Ray Serve too")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="bursts on each server in each scenario; default 5")
    parser.add_argument("--seconds", type=int, default=3, help="length of a burst; default 3")
    parser.add_argument("--connections", type=int, default=32, help="keep-alive connections; default 32")
    parser.add_argument("--starts", type=int, default=3, help="times that each server is started alone; default 3")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.md and its plot")
    return parser


class Run:
    """One run: every server alone for its start and memory, then all of them, by turns, under each load."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        chosen = {*options.servers, *(["ray"] if options.with_ray else [])}
        self._servers = [server for name, server in SERVERS.items() if name in chosen]
        cores = sorted(os.sched_getaffinity(0))
        self._load = Load(options.connections, server_core=cores[0], load_core=cores[min(1, len(cores) - 1)])
        self._results = Results(_conditions(options, self._load))

    def run(self) -> None:
        """Measure, keep the results, print them, and publish them if that was asked for."""
        os.sched_setaffinity(0, {self._load.load_core})  # this program must not disturb the servers either
        self._results.versions = {server.name: _version(server) for server in self._servers}
        for server in self._servers:
            self._results.starts[server.name] = [self._start_alone(server) for _ in range(self._options.starts)]
        with _all_started(self._servers, self._load.server_core) as running:
            for name in self._options.scenarios:
                self._measure(SCENARIOS[name], running)
        self._results.save(FULL if self._options.publish else WORK / "latest.json")
        sys.stdout.write(as_markdown(self._results))
        if self._options.publish:
            publish_results(self._results)

    def _start_alone(self, server: Server) -> Start:
        _say(f"{server.title}: start and memory")
        scenario = _first_scenario(server)
        running = RunningServer(server, self._load.server_core)
        try:
            seconds = running.wait(scenario)
            before = running.cpu_seconds()
            self._load.burst(running, scenario, _WARM_UP_SECONDS)
            used = {pid: after - before.get(pid, 0.0) for pid, after in running.cpu_seconds().items()}
            memory = running.memory_mib()
            serving = max(memory, key=lambda pid: used.get(pid, 0.0))
            return Start(seconds, memory[serving], sum(memory.values()), len(memory))
        finally:
            running.stop()

    def _measure(self, scenario: Scenario, running: Iterable[RunningServer]) -> None:
        able = [one for one in running if scenario.form in one.server.requests and self._supports(one, scenario)]
        if not {one.server.name for one in able} > {scenario.baseline}:
            self._note(f"{scenario.title}: expected {SERVERS[scenario.baseline].title} and another server beside it")
            return
        rounds: dict[str, list[Burst]] = {one.server.name: [] for one in able}
        self._results.bursts[scenario.name] = rounds
        for one in able:
            with one.awake():
                self._load.burst(one, scenario, _WARM_UP_SECONDS)
        for number in range(self._options.rounds):
            _say(f"{scenario.title}: round {number + 1} of {self._options.rounds}")
            first = number % len(able)
            for one in able[first:] + able[:first]:  # so that no server always follows the same one
                with one.awake():
                    rounds[one.server.name].append(self._load.burst(one, scenario, self._options.seconds))

    def _supports(self, running: RunningServer, scenario: Scenario) -> bool:
        with running.awake():
            status, _ = running.ask(running.server.requests[scenario.form], scenario.rows)
            if status != _UNSUPPORTED:
                running.check(scenario)
                return True
        self._note(f"{scenario.title}: {running.server.title} answers {status}, so it does not take part")
        return False

    def _note(self, note: str) -> None:
        _say(note)
        self._results.notes.append(note)


@contextmanager
def _all_started(servers: Iterable[Server], core: int) -> Iterator[list[RunningServer]]:
    running: list[RunningServer] = []
    try:
        for server in servers:
            running.append(RunningServer(server, core))
            running[-1].wait(_first_scenario(server))
            running[-1].sleep()
        yield running
    finally:
        for one in running:
            one.stop()


def _first_scenario(server: Server) -> Scenario:
    return SCENARIOS[next(iter(server.requests))]


def _version(server: Server) -> str:
    code = f"from importlib.metadata import version; print(version({server.package!r}))"
    python = environment_of(server) / "python"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _conditions(options: argparse.Namespace, load: Load) -> dict[str, str]:
    models = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    cores = f"the servers on core {load.server_core}, wrk on core {load.load_core}"
    if load.server_core == load.load_core:
        cores = "one core only, which the servers share with wrk: the throughput is that of both together"
    kernel = ".".join(platform.release().split(".")[:2])
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": next(models, "model name: unknown").partition(":")[2].strip(),
        "system": f"{platform.system()} {kernel}, Python {platform.python_version()}",
        "cores": cores,
        "load": f"{options.connections} keep-alive connections, {options.rounds} rounds of bursts of "
        f"{options.seconds} s, after a warm-up",
        "starts": f"{options.starts}, each server alone",
    }


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


if __name__ == "__main__":
    sys.exit(main())

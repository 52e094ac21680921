"""`python -m benchmarks.run`: measure servers side by side; README.md says how, `--help` what can be chosen."""

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterable

from benchmarks.catalogue import SCENARIOS, SERVERS, Scenario, Server
from benchmarks.load import WARM_UP_SECONDS, Load, say
from benchmarks.processes import RunningServer, all_started, environment_of
from benchmarks.report import FULL, as_markdown, publish_results
from benchmarks.results import WORK, BenchmarkFailed, Results, Start
from benchmarks.wrk import check_tools

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
        self._load = Load.from_another_core(options.connections)
        conditions = self._load.conditions(options.rounds, options.seconds)
        self._results = Results(conditions | {"starts": f"{options.starts}, each server alone"})

    def run(self) -> None:
        """Measure, keep the results, print them, and publish them if that was asked for."""
        self._results.versions = {server.name: _version(server) for server in self._servers}
        for server in self._servers:
            self._results.starts[server.name] = [self._start_alone(server) for _ in range(self._options.starts)]
        first = [(server, _first_scenario(server)) for server in self._servers]
        with all_started(first, self._load.server_core) as running:
            for name in self._options.scenarios:
                self._measure(SCENARIOS[name], running)
        self._results.save(FULL if self._options.publish else WORK / "latest.json")
        sys.stdout.write(as_markdown(self._results))
        if self._options.publish:
            publish_results(self._results)

    def _start_alone(self, server: Server) -> Start:
        say(f"{server.title}: start and memory")
        scenario = _first_scenario(server)
        running = RunningServer(server, self._load.server_core)
        try:
            seconds = running.wait(scenario)
            before = running.cpu_seconds()
            self._load.burst(running, scenario, WARM_UP_SECONDS)
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
        self._results.bursts[scenario.name] = self._load.by_turns(
            able, scenario, self._options.rounds, self._options.seconds
        )

    def _supports(self, running: RunningServer, scenario: Scenario) -> bool:
        with running.awake():
            status, _ = running.ask(running.server.requests[scenario.form], scenario.rows)
            if status != _UNSUPPORTED:
                running.check(scenario)
                return True
        self._note(f"{scenario.title}: {running.server.title} answers {status}, so it does not take part")
        return False

    def _note(self, note: str) -> None:
        say(note)
        self._results.notes.append(note)


def _first_scenario(server: Server) -> Scenario:
    return SCENARIOS[next(iter(server.requests))]


def _version(server: Server) -> str:
    code = f"from importlib.metadata import version; print(version({server.package!r}))"
    python = environment_of(server) / "python"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())

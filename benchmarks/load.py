"""Bursts of load, by wrk."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from time import monotonic

from benchmarks.catalogue import Scenario
from benchmarks.processes import RunningServer, busy_seconds
from benchmarks.results import WORK, BenchmarkFailed, Burst

_RESULT = "RESULT "
_SCRIPT = """\
wrk.method = "POST"
{headers}
local file = io.open({body}, "rb")
wrk.body = file:read("*a")
file:close()

function done(summary, latency, requests)
   local errors = summary.errors
   io.write("RESULT ", string.format(
      '{{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "connect": %d, "read": %d, "write": %d, '
         .. '"status": %d, "timeout": %d}}\\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.connect, errors.read, errors.write, errors.status, errors.timeout
   ))
end
"""


def check_tools() -> None:
    """Raises BenchmarkFailed unless wrk and taskset are installed."""
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            raise BenchmarkFailed(f"expected {tool}, got none; on Debian: apt-get update && apt-get install {package}")


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
            requests=counts["requests"],
            seconds=counts["microseconds"] / 1e6,
            cpu_seconds=used,
            p50_ms=counts["p50"] / 1000,
            p99_ms=counts["p99"] / 1000,
            others_share=max(0.0, busy - used) / took,
        )

    def _run_wrk(self, running: RunningServer, scenario: Scenario, seconds: int) -> dict[str, int]:
        name, path = running.server.name, running.server.requests[scenario.form].path
        command = ["taskset", "-c", str(self.load_core), "wrk", "--threads=1", f"--connections={self.connections}"]
        command += [f"--duration={seconds}s", "--timeout=30s", f"--script={_script(running, scenario)}"]
        ended = subprocess.run(
            [*command, f"http://127.0.0.1:{running.port}{path}"], capture_output=True, text=True, check=False
        )
        lines = [line for line in ended.stdout.splitlines() if line.startswith(_RESULT)]
        if ended.returncode or not lines:
            raise BenchmarkFailed(f"{name}: expected wrk to run, got {ended.stdout}{ended.stderr}")
        counts: dict[str, int] = json.loads(lines[0].removeprefix(_RESULT))
        errors = {kind: counts[kind] for kind in ("status", "connect", "read", "write", "timeout") if counts[kind]}
        if errors or not counts["requests"]:
            raise BenchmarkFailed(
                f"{name}: expected only 2xx replies in {scenario.name}, got {counts['requests']} replies, "
                f"of them with errors: {errors}"
            )
        return counts


def _script(running: RunningServer, scenario: Scenario) -> str:
    request = running.server.requests[scenario.form]
    folder = WORK / "wrk"
    folder.mkdir(parents=True, exist_ok=True)
    body = folder / f"{running.server.name}-{scenario.name}.body"
    body.write_bytes(request.encode(scenario.rows))
    script = body.with_suffix(".lua")
    headers = "\n".join(f"wrk.headers[{name!r}] = {value!r}" for name, value in request.headers.items())
    script.write_text(_SCRIPT.format(headers=headers, body=json.dumps(str(body))))
    return str(script)

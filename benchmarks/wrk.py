"""wrk, the load generator: how it is started, and what it found."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import BenchmarkFailed

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


@dataclass(frozen=True, slots=True)
class Counts:
    """What wrk counted in one run."""

    requests: int
    """Replies of any status."""
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: Mapping[str, int]
    """Replies from 400 on as `status`, and failed sockets as `connect`, `read`, `write` and `timeout`; none is 0."""


@dataclass(frozen=True, slots=True)
class Wrk:
    """A request to be sent over and over, by one thread on some cores."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    cores: str
    folder: Path
    """Where the script and the body are put, under `name`."""
    name: str

    def run(self, connections: int, seconds: int) -> Counts:
        """Load the server for some seconds. Raises BenchmarkFailed when wrk itself fails."""
        command = ["taskset", "-c", self.cores, "wrk", "--threads=1", f"--connections={connections}"]
        command += [f"--duration={seconds}s", "--timeout=30s", f"--script={self._script()}"]
        ended = subprocess.run([*command, self.url], capture_output=True, text=True, check=False)
        lines = [line for line in ended.stdout.splitlines() if line.startswith(_RESULT)]
        if ended.returncode or not lines:
            raise BenchmarkFailed(f"{self.name}: expected wrk to run, got {ended.stdout}{ended.stderr}")
        counts: dict[str, int] = json.loads(lines[0].removeprefix(_RESULT))
        return Counts(
            requests=counts["requests"],
            seconds=counts["microseconds"] / 1e6,
            p50_ms=counts["p50"] / 1000,
            p99_ms=counts["p99"] / 1000,
            errors={kind: counts[kind] for kind in ("status", "connect", "read", "write", "timeout") if counts[kind]},
        )

    def _script(self) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        body = self.folder / f"{self.name}.body"
        body.write_bytes(self.body)
        script = body.with_suffix(".lua")
        headers = "\n".join(f"wrk.headers[{name!r}] = {value!r}" for name, value in self.headers.items())
        script.write_text(_SCRIPT.format(headers=headers, body=json.dumps(str(body))))
        return str(script)


def check_tools() -> None:
    """Raises BenchmarkFailed unless wrk and taskset are installed."""
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            raise BenchmarkFailed(f"expected {tool}, got none; on Debian: apt-get update && apt-get install {package}")

"""A server as a tree of processes: started on one core, asked, measured from /proc, and stopped."""

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import isclose
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from benchmarks.catalogue import Request, Rows, Scenario, Server
from benchmarks.results import ROOT, WORK, BenchmarkFailed

_START_DEADLINE = 120.0
_STOP_DEADLINE = 20.0
_POLL = 0.002
_OK = 200
_TICKS = os.sysconf("SC_CLK_TCK")

# Idle threads of a BLAS would fight over the one core.
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}


class RunningServer:
    """One server that has been started; `stop` it, whatever happens."""

    def __init__(self, server: Server, core: int) -> None:
        self.server = server
        self._core = core
        self.port, self.port_2, port_3 = _free_ports(3)
        names = {"port": self.port, "port_2": self.port_2, "port_3": port_3}
        program, *arguments = (word.format(**names) for word in server.command)
        variables = {name: value.format(**names) for name, value in server.variables.items()}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WEIGHBRIDGE_")}
        (WORK / "logs").mkdir(parents=True, exist_ok=True)
        self._log = WORK / "logs" / f"{server.name}.log"
        self._started = monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), str(environment_of(server) / program), *arguments],
                cwd=ROOT,
                env=inherited | _ONE_THREAD | {"PYTHONPATH": str(ROOT)} | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, scenario: Scenario) -> float:
        """Wait for the first good answer; returns the seconds from the start of the process to it."""
        while True:
            try:
                status, body = self.ask(self.server.requests[scenario.form], scenario.rows)
                if status == _OK:
                    break
                came = f"{status} {body[:200]!r}"
            except (OSError, http.client.HTTPException) as exc:
                came = str(exc)
            ended = self._process.poll()
            if ended is not None:
                came = f"a process that ended with code {ended}"
            if ended is not None or monotonic() - self._started > _START_DEADLINE:
                raise BenchmarkFailed(
                    f"{self.server.name}: expected a good answer within {_START_DEADLINE:.0f} s, got {came}; "
                    f"see {self._log.relative_to(ROOT)}"
                )
            sleep(_POLL)
        seconds = monotonic() - self._started
        self.check(scenario)
        return seconds

    def ask(self, request: Request, rows: Rows) -> tuple[int, bytes]:
        """Status and body of the reply to one request, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", request.path, request.encode(rows), dict(request.headers))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def runners(self) -> list[dict[str, Any]]:
        """What Weighbridge tells of its runners, on the admin listener, which has the second port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port_2, timeout=30)
        try:
            connection.request("GET", "/runners")
            told: list[dict[str, Any]] = json.loads(connection.getresponse().read())
            return told
        finally:
            connection.close()

    def check(self, scenario: Scenario) -> None:
        """Raises BenchmarkFailed unless the server predicts the right values, and on its own core only."""
        request = self.server.requests[scenario.form]
        status, body = self.ask(request, scenario.rows)
        if status != _OK:
            raise BenchmarkFailed(f"{self.server.name}: expected 200 in {scenario.name}, got {status} {body[:200]!r}")
        got = request.decode(body)
        close = partial(isclose, rel_tol=scenario.tolerance, abs_tol=1e-3 * scenario.tolerance)
        if len(got) != len(scenario.rows) or not all(map(close, got, scenario.expected)):
            raise BenchmarkFailed(
                f"{self.server.name}: expected {scenario.expected[:3]}... in {scenario.name}, got {body[:200]!r}"
            )
        astray = [pid for pid in self._tree() if _cores_of(pid) - {self._core}]
        if astray:
            raise BenchmarkFailed(f"{self.server.name}: expected all processes on core {self._core}, got {astray} not")

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the server run; before and after, it stands still, so that it takes nothing from the one measured."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.sleep()

    def sleep(self) -> None:
        """Make the server stand still until it is `awake`."""
        self._signal(signal.SIGSTOP)

    def cpu_seconds(self) -> dict[int, float]:
        """Processor time that each process of the tree has used, by its id."""
        used = {}
        for pid in self._tree():
            fields = _stat(pid)
            if fields:
                used[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
        return used

    def memory_mib(self) -> dict[int, float]:
        """Proportional set size of each process of the tree, by its id."""
        return {pid: size for pid in self._tree() if (size := _pss_mib(pid))}

    def stop(self) -> None:
        """End the server, politely at first."""
        tree = self._tree()
        self._signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(_STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in tree[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for pid in reversed(self._tree()):  # children first: no parent is to see one that stands still
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _tree(self) -> list[int]:
        """The server's first process and all its descendants."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (fields := _stat(int(entry.name))):
                children.setdefault(int(fields[1]), []).append(int(entry.name))
        tree = [self._process.pid]
        for pid in tree:
            tree += children.get(pid, [])
        return tree


@contextmanager
def all_started(servers: Sequence[tuple[Server, Scenario]], core: int) -> Iterator[list[RunningServer]]:
    """The servers, once each has answered its scenario, state still; afterwards they have ended."""
    running: list[RunningServer] = []
    try:
        for server, scenario in servers:
            running.append(RunningServer(server, core))
            running[-1].wait(scenario)
            running[-1].sleep()
        yield running
    finally:
        for one in running:
            one.stop()


def environment_of(server: Server) -> Path:
    """Where the programs of the server's virtual environment are. Raises BenchmarkFailed."""
    own = server.environment == "weighbridge"
    programs = (ROOT / ".venv" if own else WORK / "environments" / server.environment) / "bin"
    if not programs.exists():
        target = ".venv/installed" if own else f".bench/environments/{server.environment}/installed"
        raise BenchmarkFailed(f"{server.name}: expected its environment, got none; run `make {target}`")
    return programs


def busy_seconds(core: int) -> float:
    """For how long `core` has not been idle: what everything on it has used, and what the machine's host took from it.

    Linux measures how long a core idles; what it does otherwise it only samples, once in some milliseconds.
    """
    _user, _nice, _system, idle, iowait, *_others = _ticks(core)
    return monotonic() - (idle + iowait) / _TICKS


def stolen_seconds(core: int) -> float:
    """For how long the machine's host has kept `core` from work that was there."""
    return _ticks(core)[7] / _TICKS


def _ticks(core: int) -> list[int]:
    """How `core` has spent its time, by the kinds of proc_stat(5)."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    return [*map(int, line.split()[1:])]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (proc(5)); none for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _cores_of(pid: int) -> set[int]:
    try:
        return os.sched_getaffinity(pid)
    except ProcessLookupError:
        return set()


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)

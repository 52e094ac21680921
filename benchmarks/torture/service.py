"""The real service as a tree of processes: started, asked through its admin listener, looked at in /proc, stopped."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Any

from benchmarks.results import ROOT, WORK, BenchmarkFailed
from benchmarks.torture.exchanges import HOST, Ask

SERVE = ("-m", "weighbridge", "serve")
SLOW = ("-m", "benchmarks.torture.slow_service")
"""The same service with a model that can be slow; see there."""

DEADLINE = 60.0
_POLL = 0.01
_ASK_SECONDS = 5.0
_OK = 200
_MB = 1e6
_ESTABLISHED = "01"
_PORTS = count(10_000 + os.getpid() % 8_000)
"""Others than those that the tests choose from: a client whose service has just ended must not reach another one."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as the admin listener shows it."""

    pid: int
    state: str
    connections: int

    @property
    def ready(self) -> bool:
        """Whether it gets connections."""
        return self.state == "ready"


class Service:
    """The service on two ports that are known before it starts; its output is in `log`, unless it is sent elsewhere."""

    def __init__(
        self,
        command: tuple[str, ...] = SERVE,
        *,
        name: str = "service",
        workers: int = 2,
        prefix: tuple[str, ...] = (),
        output: IO[bytes] | int | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.workers_wanted = workers
        self.port, self.admin_port = free_port(), free_port()
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("WEIGHBRIDGE_")}
        given = {
            "WEIGHBRIDGE_PORT": str(self.port),
            "WEIGHBRIDGE_ADMIN_PORT": str(self.admin_port),
            "WEIGHBRIDGE_WORKERS": str(workers),
            "WEIGHBRIDGE_LOG_FORMAT": "json",
            "WEIGHBRIDGE_LOG_REQUESTS": "none",
            **(variables or {}),
        }
        self.log = WORK / "torture" / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, *command],
                cwd=ROOT,
                env=inherited | given,
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=log,
                # A group of its own, which a terminal's signals do not reach; but of the session of the clients: Linux'
                # autogroups would weigh all that the service does against them, and what opens a version as much.
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """The process that was started: the supervisor, where there is one."""
        return self.process.pid

    def wait(self, seconds: float = DEADLINE) -> None:
        """Wait until all its workers are ready. Raises BenchmarkFailed."""
        self.until(self.is_whole, "all workers to be ready", seconds)

    def is_whole(self) -> bool:
        """Whether every worker that it should have is ready, and there is no other."""
        try:
            workers = self.workers()
        except (OSError, http.client.HTTPException, ValueError):
            return False
        return len(workers) == max(1, self.workers_wanted) and all(worker.ready for worker in workers)

    def is_whole_without(self, gone: set[int]) -> bool:
        """Whether every worker is ready, and none is one of those processes."""
        return self.is_whole() and not self.worker_pids() & gone

    def until(self, holds: Callable[[], bool], what: str, seconds: float = DEADLINE) -> float:
        """Wait until something holds; how long it took, in seconds. Raises BenchmarkFailed."""
        began = monotonic()
        while not holds():
            ended = self.process.poll()
            if ended is not None or monotonic() - began > seconds:
                came = "it did not come" if ended is None else f"the service ended with code {ended}"
                raise BenchmarkFailed(f"expected {what} within {seconds:.0f} s, but {came}; see {self.log}")
            sleep(_POLL)
        return monotonic() - began

    def ask(self, path: str, *, port: int | None = None, seconds: float = _ASK_SECONDS) -> tuple[int, bytes]:
        """Status and body of a GET on a connection of its own: to the admin listener, unless `port` is another."""
        connection = http.client.HTTPConnection(HOST, port or self.admin_port, timeout=seconds)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def send(self, ask: Ask, seconds: float = DEADLINE) -> tuple[int, bytes]:
        """Status and body of the reply to a request, on a connection of its own. Raises OSError, HTTPException."""
        headers = {"Content-Type": "application/json"}
        if ask.deadline_ms is not None:
            headers["X-Request-Timeout-Ms"] = str(ask.deadline_ms)
        connection = http.client.HTTPConnection(HOST, self.port, timeout=seconds)
        try:
            connection.request("POST", ask.path, ask.body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def runners(self, model: str | None = None) -> list[dict[str, Any]]:
        """The runners as the admin listener shows them: all, or those of one model."""
        listed: list[dict[str, Any]] = json.loads(self.ask("/runners")[1])
        return [runner for runner in listed if model is None or runner["model"] == model]

    def is_ready(self) -> bool:
        """Whether the whole service says that it is."""
        try:
            return self.ask("/readyz")[0] == _OK
        except (OSError, http.client.HTTPException):
            return False

    def workers(self) -> list[Worker]:
        """The workers that there are. Raises OSError, HTTPException, ValueError."""
        status, body = self.ask("/workers")
        if status != _OK:
            raise ValueError(f"expected 200 from /workers, got {status}")
        listed: list[dict[str, Any]] = json.loads(body)
        return [Worker(one["pid"], one["state"], one["connections"]) for one in listed]

    def worker_pids(self) -> set[int]:
        """The processes of the workers."""
        return {worker.pid for worker in self.workers()}

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that was started."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """End all of it, politely at first."""
        tree = tree_of(self.pid)
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in tree[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def running(service: Service, seconds: float = DEADLINE) -> Iterator[Service]:
    """The service, from when all workers are ready; whatever happens, its processes have ended afterwards."""
    try:
        service.wait(seconds)
        yield service
    finally:
        service.stop()


@contextmanager
def serving(
    models: Path,
    name: str,
    variables: Mapping[str, str] | None = None,
    *,
    workers: int = 2,
    seconds: float = DEADLINE,
) -> Iterator[Service]:
    """The service with these models, once they are open, within so many seconds; the runtime `python` is allowed."""
    given = {"WEIGHBRIDGE_MODELS": str(models), "WEIGHBRIDGE_MODELS_WATCH": "off", "WEIGHBRIDGE_PYTHON_MODELS": "true"}
    with running(Service(name=name, workers=workers, variables={**given, **(variables or {})}), seconds) as service:
        service.until(service.is_ready, "the models to be open")
        yield service


def free_port() -> int:
    """A port that nobody listens on, below those from which the system gives clients theirs."""
    return next(number for number in _PORTS if not is_listening(number))


def is_listening(port: int) -> bool:
    """Whether somebody listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def tree_of(pid: int) -> list[int]:
    """A process and all its descendants, it first."""
    tree = [pid]
    for parent in tree:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                tree += map(int, children.read_text("ascii").split())
    return tree


def is_alive(pid: int) -> bool:
    """Whether the process still runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def pss_mb(pid: int) -> float:
    """Proportional set size in MB (1,000,000 bytes)."""
    return _memory_mb(pid, "Pss:")


def private_mb(pid: int) -> float:
    """Memory that no other process has, in MB (1,000,000 bytes)."""
    return _memory_mb(pid, "Private_Clean:", "Private_Dirty:")


def _memory_mb(pid: int, *kinds: str) -> float:
    lines = map(str.split, Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines())
    return sum(int(fields[1]) for fields in lines if fields[0] in kinds) * 1024 / _MB


def descriptors(pid: int) -> int:
    """How many files and sockets are open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_seconds(pid: int) -> float:
    """User and system time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def client_ports(pid: int, port: int) -> set[int]:
    """The clients' ports of the connections to `port` that a process holds."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    ports = set()
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        _, local, remote, state, *others = line.split()
        if local.endswith(f":{port:04X}") and state == _ESTABLISHED and others[5] in inodes:
            ports.add(int(remote.partition(":")[2], 16))
    return ports

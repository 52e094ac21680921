"""The services that the gate's tests attack, and what they see of their connections."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service import Service, serving
from tests.integration.wire import Wire, head

KIB = 1024
LARGEST_BODY = 256 * KIB
MOST_BUFFERED = 1024 * KIB
KEEP_ALIVE = 0.8
SCRIPT = b"/docs/assets/swagger-ui-bundle.js"
LARGE_REPLY = (
    head(b"POST", b"/predict/batch", b"Content-Type: application/octet-stream", b"Content-Length: 32000")
    + b"\x11" * 32_000
)


def check_log(service: Service) -> None:
    """Assert that nothing was logged but that requests came, whatever they were."""
    assert {(event["event"], event["level"]) for event in service.events} <= {
        ("worker_started", "info"),
        ("service_started", "info"),
        ("admin_listening", "info"),
        ("listening", "info"),
        ("request", "info"),
        ("request", "error"),
        ("requests_turned_away", "warning"),
    }


@pytest.fixture(scope="module")
def gate() -> Iterator[Service]:
    """A service with room for little."""
    with serving(
        LOG_REQUESTS="all", MAX_BODY_BYTES=str(LARGEST_BODY), MAX_BUFFERED_BYTES=str(MOST_BUFFERED)
    ) as started:
        yield started
        check_log(started)


@pytest.fixture(scope="module")
def hasty() -> Iterator[Service]:
    """A service with room for little that waits for nobody."""
    with serving(
        LOG_REQUESTS="all",
        MAX_BODY_BYTES=str(LARGEST_BODY),
        MAX_BUFFERED_BYTES=str(MOST_BUFFERED),
        HEADER_TIMEOUT="0.3",
        BODY_TIMEOUT="0.3",
        WRITE_TIMEOUT="0.3",
        KEEP_ALIVE_TIMEOUT=str(KEEP_ALIVE),
    ) as started:
        yield started
        check_log(started)


def held(service: Service) -> int:
    """How many connections the service holds, or has yet to accept."""
    port = f":{int(service.url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines() if f"{port} " in line]
    listening = "0A"
    return sum(row[1].endswith(port) and row[3] != listening and row[9] != "0" for row in rows)


def descriptors(service: Service) -> int:
    """How many descriptors its processes have."""
    pids = [service.process.pid, *(event["pid"] for event in service.of("worker_started"))]
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def sip(service: Service) -> Wire:
    """A connection whose client has room for next to nothing, and reads none of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * KIB)
    connection.settimeout(0.2)
    connection.connect(("127.0.0.1", int(service.url.rpartition(":")[2])))
    return Wire(connection)

"""Without our own protocol the application runs unchanged: here on Hypercorn, another ASGI server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest

from tests.contract import ONE_OF_EACH, Case
from tests.integration.service import PLAIN, Lines
from tests.waiting import DEADLINE, until

COMMAND = (sys.executable, "-m", "hypercorn", "--workers", "0", "--bind", "127.0.0.1:0")
LISTENING = re.compile(rb"Running on (http://127\.0\.0\.1:\d+)")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    """A client of the application on Hypercorn."""
    process = subprocess.Popen(
        [*COMMAND, "weighbridge.entrypoints.asgi:create_app()"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "WEIGHBRIDGE_FAST_LANE": "false", "WEIGHBRIDGE_LOG_REQUESTS": "none"},
    )
    assert process.stdout is not None
    with process.stdout as output:
        lines = Lines(output)
        until(lambda: LISTENING.search(b"".join(lines.so_far)))
        listening = LISTENING.search(b"".join(lines.so_far))
        assert listening
        # A connection for each request: Hypercorn closes one whose body came later than its reply.
        fresh = httpx2.Limits(max_keepalive_connections=0)
        with httpx2.Client(base_url=listening[1].decode(), timeout=DEADLINE, limits=fresh, verify=PLAIN) as client:
            yield client
        process.terminate()
        lines.reader.join(DEADLINE)
    assert process.wait(DEADLINE) == 0
    assert b'"service_stopped"' in lines.so_far[-1]
    assert not any(b"exception" in line for line in lines.so_far)


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)
def test_the_contract_holds_on_another_server(client: httpx2.Client, case: Case) -> None:
    case.check(client)

"""What a worker is started with."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.waiting import until
from weighbridge.server.catalogue import Catalogue
from weighbridge.server.supervisor.process import WorkerProcess
from weighbridge.settings import Settings


def test_a_worker_does_not_know_the_token_of_the_admin_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_ADMIN_TOKEN", "sixteen-characters")
    monkeypatch.setenv("WEIGHBRIDGE_LOG_LEVEL", "error")

    async def environment() -> bytes:
        worker = WorkerProcess([sys.executable, "-c", "input()"], Settings(), Catalogue(), slot=0, most_connections=1)
        variables = Path(f"/proc/{worker.pid}/environ")
        await asyncio.to_thread(until, variables.read_bytes)  # there are none while the program is being loaded
        read = await asyncio.to_thread(variables.read_bytes)
        worker.kill("the test is over")
        worker.ended()
        return read

    names = {line.partition(b"=")[0] for line in asyncio.run(environment()).split(b"\0")}
    assert b"WEIGHBRIDGE_LOG_LEVEL" in names
    assert b"WEIGHBRIDGE_ADMIN_TOKEN" not in names

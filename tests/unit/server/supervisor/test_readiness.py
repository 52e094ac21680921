"""Whether a supervisor says that requests should be sent."""

import asyncio
import socket

import pytest
from structlog.typing import FilteringBoundLogger

from tests.unit.server.actors import stage
from tests.waiting import DEADLINE
from weighbridge.server.supervisor import process


def test_a_service_whose_workers_are_in_a_long_call_is_ready(
    monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger
) -> None:
    async def main() -> None:
        async with stage(monkeypatch, logger, "1", workers=1) as on:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(process, "_SILENT_SECONDS", 0.0)
                [worker] = on.supervisor._workers
                assert (worker.is_silent, worker.room) == (True, 0)
                assert on.supervisor.not_ready() is None

    asyncio.run(main())


def test_a_service_whose_workers_are_full_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, logger: FilteringBoundLogger
) -> None:
    async def main() -> None:
        async with stage(monkeypatch, logger, "1", workers=1, max_connections=1) as on:
            with socket.create_connection(on.address, timeout=DEADLINE):
                await on.until(on.supervisor.not_ready)
                assert on.supervisor.not_ready() == "every worker is full"

    asyncio.run(main())

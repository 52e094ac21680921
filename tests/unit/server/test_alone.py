"""The one process, where a real one cannot be made to do what is asked at the right moment."""

import asyncio
import signal
from contextlib import closing

from starlette.types import Receive, Scope, Send

from tests.waiting import DEADLINE
from weighbridge.server.alone import Alone
from weighbridge.server.listener import listen
from weighbridge.settings import Settings


async def stopped_while_it_starts(_scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    signal.raise_signal(signal.SIGTERM)
    for _ in range(10):  # turns of the loop, in which the signal is handled
        await asyncio.sleep(0)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def test_a_service_that_is_stopped_while_it_starts_ends_normally() -> None:
    async def main() -> None:
        with closing(listen("127.0.0.1", 0)) as listener:
            alone = Alone(lambda: stopped_while_it_starts, bytearray(8), Settings(), listener, inherited=False)
            async with asyncio.timeout(DEADLINE):
                await alone.run(lambda: None)

            assert alone.not_ready() == "draining"

    asyncio.run(main())

"""An event loop that runs only when a test wants something of it."""

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, TypeVar

from tests.waiting import DEADLINE

ResultT = TypeVar("ResultT")

TURNS = 12
"""Of a loop, in which it does all that is to be done by now."""


class Looped:
    """Runs things on a loop."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """What a coroutine returns or raises, in time."""

        async def in_time() -> ResultT:
            return await asyncio.wait_for(work, DEADLINE)

        return self._runner.run(in_time())

    def begin(self, work: Coroutine[Any, Any, ResultT]) -> "asyncio.Task[ResultT]":
        """Have a coroutine go on whenever the loop runs."""

        async def begun() -> "asyncio.Task[ResultT]":
            return asyncio.ensure_future(work)

        return self._runner.run(begun())

    def do(self, function: Callable[[], ResultT]) -> ResultT:
        """What a function returns or raises that is called on the loop."""

        async def done() -> ResultT:
            return function()

        return self._runner.run(done())

    def wait(self, future: "asyncio.Future[ResultT]") -> ResultT:
        """What becomes of a future, in time."""

        async def waited() -> ResultT:
            return await asyncio.wait_for(asyncio.shield(future), DEADLINE)

        return self._runner.run(waited())

    def until(self, condition: Callable[[], object]) -> None:
        """Have the loop run until the condition holds; fail when it does not in time."""

        async def held() -> None:
            end = monotonic() + DEADLINE
            while not condition():
                assert monotonic() < end, "the condition did not come true in time"
                await asyncio.sleep(0.002)

        self._runner.run(held())

    def settle(self) -> None:
        """Have the loop do all that is to be done by now."""

        async def turns() -> None:
            for _ in range(TURNS):
                await asyncio.sleep(0)

        self._runner.run(turns())

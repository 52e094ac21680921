"""A model beside the event loop."""

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from tests.waiting import DEADLINE, until
from weighbridge.application.in_thread import InThread
from weighbridge.domain.batch import Batch, Outputs
from weighbridge.domain.signature import Column, Kind, Signature

SIGNATURE = Signature((Column(name="x", kind=Kind.FLOAT),), (Column(name="y", kind=Kind.FLOAT),))


class Model:
    """Does what it is told to, and knows in which threads."""

    signature = SIGNATURE

    def __init__(self, call: Callable[[], object] = lambda: None) -> None:
        self.threads: list[threading.Thread] = []
        self._call = call

    def predict(self, batch: Batch) -> Outputs:
        self.threads.append(threading.current_thread())
        self._call()
        return (batch.matrix(np.float64)[:, 0],)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, which comes in time."""
    asyncio.run(asyncio.wait_for(main, DEADLINE))


def test_a_model_is_called_by_one_thread_which_is_not_the_loops() -> None:
    model = Model()

    async def main() -> None:
        scorer = InThread(model)
        answers = await asyncio.gather(*(scorer.ask([(number,)]) for number in (1.0, 2.0)))

        assert [outputs[0].tolist() for outputs in answers] == [[1.0], [2.0]]

    run(main())
    assert len(set(model.threads)) == 1
    assert threading.current_thread() not in model.threads


def test_the_event_loop_goes_on_during_a_call() -> None:
    goes_on = threading.Event()

    async def main() -> None:
        asked = InThread(Model(lambda: goes_on.wait(DEADLINE))).ask([(1.0,)])
        goes_on.set()
        await asked

    run(main())


def test_rows_that_are_taken_back_are_not_scored() -> None:
    goes_on = threading.Event()
    model = Model(lambda: goes_on.wait(DEADLINE))

    async def main() -> None:
        scorer = InThread(model)
        first, second, third = (scorer.ask([(1.0,)]) for _ in range(3))
        second.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        await asyncio.gather(first, third)

    run(main())
    assert len(model.threads) == 2


@pytest.mark.parametrize(
    ("raised", "told", "text"),
    [
        (ValueError("no"), ValueError, "no"),
        (SystemExit(3), RuntimeError, "the model raised SystemExit"),
        (StopIteration(), RuntimeError, "the model raised StopIteration"),
    ],
)
def test_whatever_a_model_raises_is_raised_where_it_is_waited_for(
    raised: BaseException, told: type[Exception], text: str
) -> None:
    def call() -> None:
        raise raised

    async def main() -> None:
        scorer = InThread(Model(call))
        for _ in range(2):  # the thread goes on
            with pytest.raises(told, match=f"^{text}$"):
                await scorer.ask([(1.0,)])

    run(main())


def test_the_thread_ends_with_the_last_reference() -> None:
    model = Model()

    async def main() -> None:
        await InThread(model).ask([(1.0,)])

    run(main())
    gc.collect()
    until(lambda: not model.threads[0].is_alive())
